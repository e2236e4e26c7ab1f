"""Retries: which errors are temporary, how long to wait; valid names of a repository."""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gemfit.hub.retry import Unreachable, describe, is_temporary, retried
from gemfit.schemas.hub import HubRecipe, repo_id
from gemfit.schemas.recipe import Recipe


def answer(status: int, headers: dict[str, str] | None = None) -> HfHubHTTPError:
    request = httpx2.Request("PUT", "https://storage.example/x?signature=secret")
    return HfHubHTTPError("failed", response=httpx2.Response(status, headers=headers, request=request))


class Failing:
    """An action that raises ``error`` at every call."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def __call__(self) -> None:
        self.calls += 1
        raise self.error


def wrapped(cause: Exception) -> RuntimeError:
    """The error that huggingface_hub raises when one of several uploads fails."""
    error = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_server_errors_are_temporary(status: int) -> None:
    assert is_temporary(answer(status))
    assert is_temporary(wrapped(answer(status)))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413])
def test_client_errors_are_permanent(status: int) -> None:
    assert not is_temporary(answer(status))
    assert not is_temporary(wrapped(answer(status)))


def test_network_errors_are_temporary_and_bugs_are_not() -> None:
    assert is_temporary(wrapped(httpx2.ReadTimeout("slow")))
    assert is_temporary(httpx2.ConnectError("refused"))
    assert not is_temporary(wrapped(KeyError("oid")))
    assert not is_temporary(ValueError("no"))


def test_descriptions_contain_no_signed_url() -> None:
    assert describe(wrapped(answer(503))) == "HTTP 503 Service Unavailable"


def test_waits_grow_exponentially_with_jitter(naps: list[float]) -> None:
    with pytest.raises(Unreachable, match="HTTP 503"):
        retried(Failing(answer(503)))
    assert len(naps) == 4
    for nap, shortest in zip(naps, (2, 4, 8, 16), strict=True):
        assert shortest <= nap <= shortest + 2


@pytest.mark.parametrize("header", ["", "soon", "-5", "1.5", "Wed, 99 Foo 2099", "\x00"])
def test_a_retry_after_of_another_form_is_passed_over(header: str, naps: list[float]) -> None:
    with pytest.raises(Unreachable, match="HTTP 503"):
        retried(Failing(answer(503, {"Retry-After": header})))
    assert max(naps) <= 18


def test_a_date_in_retry_after_is_waited_for(naps: list[float]) -> None:
    later = formatdate(time.time() + 300, usegmt=True)
    with pytest.raises(Unreachable, match="HTTP 429"):
        retried(Failing(answer(429, {"Retry-After": later})))
    assert 200 < max(naps) <= 300


def test_after_the_last_attempt_the_hub_is_unreachable(naps: list[float]) -> None:
    action = Failing(answer(503))
    with pytest.raises(Unreachable, match="HTTP 503"):
        retried(action, attempts=3)
    assert action.calls == 3
    assert len(naps) == 2


def test_a_permanent_error_is_raised_at_once(naps: list[float]) -> None:
    action = Failing(answer(403))
    with pytest.raises(HfHubHTTPError):
        retried(action)
    assert (action.calls, naps) == (1, [])


NAMES = [
    *(
        "a/b",
        "me/first.model",
        "a",
        "a/b/c",
        "-a/b",
        "a/b-",
        "a/.b",
        "a--b/c",
        "a/b..c",
        "a/b.git",
        "ä/b",
        "",
    ),
]
PAIRS = st.from_regex(r"[a-z0-9.\-_]{1,6}/[a-z0-9.\-_]{1,6}", fullmatch=True)


@given(name=st.one_of(st.sampled_from(NAMES), PAIRS))
def test_a_name_is_valid_exactly_where_huggingface_hub_accepts_it_with_a_namespace(name: str) -> None:
    try:
        validate_repo_id(name)
        theirs = "/" in name
    except HFValidationError:
        theirs = False
    try:
        ours = repo_id(name) == name
    except ValueError:
        ours = False
    assert ours == theirs


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"push": "end"}, "needs a `repo`"),
        ({"repo": "a/b"}, "`repo` has no effect"),
        ({"tag": True}, "`tag` has no effect"),
        ({"repo": "a", "push": "end"}, "write namespace/name"),
        ({"repo": "a/b", "push": "end", "branch": "x y"}, "is not a valid branch"),
        (
            {"repo": "a/b", "push": "end", "merge_adapter": False, "multimodal": True},
            "no effect on an adapter",
        ),
        ({"repo": "a/b", "push": "end", "merge_adapter": False}, "needs `model.lora`"),
        ({"repo": "a/b", "push": "end", "multimodal": True}, "needs a multimodal"),
    ],
)
def test_an_inconsistent_hub_section_is_rejected(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate({"model": {"scratch": {}}, "hub": settings})


def test_best_needs_a_validation_split() -> None:
    hub = {"repo": "a/b", "push": "best"}
    with pytest.raises(ValidationError, match="validation_share"):
        Recipe.model_validate({"model": {"scratch": {}}, "hub": hub, "data": {"validation_share": 0.0}})


def test_the_hub_section_is_not_part_of_the_training() -> None:
    assert HubRecipe().push == "never"
    before = Recipe.model_validate({"model": {"scratch": {}}})
    after = Recipe.model_validate({"model": {"scratch": {}}, "hub": {"repo": "a/b", "push": "end"}})
    assert before.model_dump(exclude={"hub"}) == after.model_dump(exclude={"hub"})
