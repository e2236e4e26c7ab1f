"""How long is waited, and for what; and which names a repository may have."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gemfit.publish.retry import Patience, Unreachable, describe, is_temporary, retried
from gemfit.schemas.hub import HubRecipe, repo_id
from gemfit.schemas.recipe import Recipe


def answer(status: int, headers: dict[str, str] | None = None) -> HfHubHTTPError:
    request = httpx2.Request("PUT", "https://storage.example/x?signature=secret")
    return HfHubHTTPError("failed", response=httpx2.Response(status, headers=headers, request=request))


def wrapped(cause: Exception) -> RuntimeError:
    """As huggingface_hub raises what went wrong with one of several uploads."""
    error = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_servers_in_trouble_are_asked_again(status: int) -> None:
    assert is_temporary(answer(status))
    assert is_temporary(wrapped(answer(status)))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413])
def test_refusals_are_final(status: int) -> None:
    assert not is_temporary(answer(status))
    assert not is_temporary(wrapped(answer(status)))


def test_networks_in_trouble_are_tried_again_and_bugs_are_not() -> None:
    assert is_temporary(wrapped(httpx2.ReadTimeout("slow")))
    assert is_temporary(httpx2.ConnectError("refused"))
    assert not is_temporary(wrapped(KeyError("oid")))
    assert not is_temporary(ValueError("no"))


def test_what_is_told_has_no_address_with_a_signature() -> None:
    assert describe(wrapped(answer(503))) == "HTTP 503 Service Unavailable"


@given(failures=st.integers(1, 30), share=st.floats(0, 1))
def test_pauses_double_and_are_cut_by_half_at_most(failures: int, share: float) -> None:
    whole = 2.0**failures
    assert whole / 2 <= Patience(first_seconds=2.0).pause(failures, share) <= whole


def test_after_the_last_attempt_the_hub_is_unreachable(naps: list[float]) -> None:
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        raise answer(503)

    with pytest.raises(Unreachable, match="HTTP 503"):
        retried(fail, Patience(attempts=3), say=lambda line: None)
    assert len(tried) == 3
    assert len(naps) == 2


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
def test_a_name_is_taken_exactly_where_huggingface_hub_takes_it_with_a_namespace(name: str) -> None:
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
        ({"repo": "a/b", "push": "end", "branch": "x y"}, "is no branch"),
        (
            {"repo": "a/b", "push": "end", "merge_adapter": False, "multimodal": True},
            "no effect on an adapter",
        ),
        ({"repo": "a/b", "push": "end", "merge_adapter": False}, "needs `model.lora`"),
        ({"repo": "a/b", "push": "end", "multimodal": True}, "needs a multimodal"),
    ],
)
def test_a_recipe_that_cannot_push_what_it_says_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate({"model": {"scratch": {}}, "hub": settings})


def test_best_needs_something_that_is_measured() -> None:
    hub = {"repo": "a/b", "push": "best"}
    with pytest.raises(ValidationError, match="held-out data"):
        Recipe.model_validate({"model": {"scratch": {}}, "hub": hub, "data": {"validation_share": 0.0}})


def test_what_is_pushed_is_no_part_of_what_is_trained() -> None:
    assert HubRecipe().push == "never"
    before = Recipe.model_validate({"model": {"scratch": {}}})
    after = Recipe.model_validate({"model": {"scratch": {}}, "hub": {"repo": "a/b", "push": "end"}})
    assert before.model_dump(exclude={"hub"}) == after.model_dump(exclude={"hub"})
