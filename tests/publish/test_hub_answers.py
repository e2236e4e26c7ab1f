"""Answers of a server to each request of a push: temporary, a refusal, or none that a Hub gives."""

from __future__ import annotations

import pytest

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from publish.conftest import REPO, commits, send
from publish.repos import Fault
from publish.server import HubServer

pytestmark = pytest.mark.filterwarnings(
    # huggingface_hub passes files to httpx2 by a deprecated name.
    "ignore:Use 'content=:DeprecationWarning"
)

STEPS = [
    ("POST", "/api/repos/create"),
    ("GET", "/xet-write-token/"),
    ("GET", "/api/models/user/kind/tree/"),
    ("POST", "/preupload/"),
    ("POST", "/objects/batch"),
    ("PUT", "/storage/"),
    ("POST", "/commit/"),
]
"""Requests of a push, in their order."""
LOGIN_PAGE = b"<!DOCTYPE html><title>Sign in to the network</title>"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (*step, status)
        for step in STEPS
        for status in (409, 412, 429, 500, 502)
        if (step[1], status) != ("/api/repos/create", 409)  # says that the repository exists
    ],
)
def test_after_one_temporary_answer_a_push_goes_on(
    method: str, path: str, status: int, ready: RunDir, hub: HubServer, naps: list[float]
) -> None:
    hub.faults.append(Fault(method, path, status=status, headers={"Retry-After": "3"}))
    assert send(ready) == ExitCode.DONE
    assert hub.faults[0].times == 0, "the request was not made"
    assert commits(hub) == ["Step 2"]


@pytest.mark.parametrize(("method", "path"), STEPS)
@pytest.mark.parametrize("status", [401, 403, 413])
def test_a_refusal_at_any_request_names_the_repository_and_keeps_a_waiting_push(
    method: str,
    path: str,
    status: int,
    ready: RunDir,
    hub: HubServer,
    naps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.faults.append(Fault(method, path, status=status, times=99))
    assert send(ready) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert f"error: {hub.url}: {REPO}: " in said
    assert f"HTTP {status}" in said
    assert ready.spooled_steps == [2]
    hub.faults.clear()
    assert send(ready) == ExitCode.DONE


@pytest.mark.parametrize(("method", "path"), [step for step in STEPS if step[0] != "PUT"])
def test_a_server_that_redirects_for_ever_is_named(
    method: str,
    path: str,
    ready: RunDir,
    hub: HubServer,
    naps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = {"Location": f"{path}x" if path.startswith("/api") else f"/api{path}x"}
    hub.faults.append(Fault(method, path, status=307, times=999, headers=again))
    assert send(ready) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert f"error: {hub.url}: {REPO}: answers as no Hub does (TooManyRedirects" in said
    assert ready.spooled_steps == [2]


def test_a_page_in_place_of_an_answer_is_temporary(
    ready: RunDir, hub: HubServer, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault("POST", "/commit/", status=200, times=99, body=LOGIN_PAGE))
    assert send(ready) == ExitCode.STOPPED
    assert "an answer that is no JSON" in capsys.readouterr().out
    hub.faults.clear()
    assert send(ready) == ExitCode.DONE


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'{"success": true}', b'{"objects": [{}]}'])
@pytest.mark.parametrize("path", ["/commit/", "/objects/batch", "/preupload/"])
def test_json_that_is_no_answer_is_named(
    path: str,
    body: bytes,
    ready: RunDir,
    hub: HubServer,
    naps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.faults.append(Fault("POST", path, status=200, times=99, body=body))
    assert send(ready) == ExitCode.USER_ERROR
    assert f"error: {hub.url}: {REPO}: answers as no Hub does (" in capsys.readouterr().err
    assert ready.spooled_steps == [2]


@pytest.mark.parametrize("header", ["86400", "Wed, 21 Oct 2099 07:28:00 GMT", 400 * "9"])
def test_a_server_that_asks_for_a_day_is_left_for_later(
    header: str, ready: RunDir, hub: HubServer, naps: list[float]
) -> None:
    hub.faults.append(Fault("POST", "/commit/", status=429, times=99, headers={"Retry-After": header}))
    assert send(ready) == ExitCode.STOPPED
    assert hub.count("POST", "/commit/") == 1
    assert max(naps, default=0) < 60
