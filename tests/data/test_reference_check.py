"""The process that compares samples of a build with the reference."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from gemfit.data.build.reference_check import ReferenceChecker
from gemfit.data.tokenize import Encoder, EngineMismatch, reference_encoder
from gemfit.data.tokenize.verification import VerificationSample
from gemfit.errors import UserError


@pytest.fixture
def checker(tokenizer: Any) -> Iterator[ReferenceChecker]:
    with closing(ReferenceChecker(lambda: reference_encoder(tokenizer))) as checker:
        yield checker


def sample_of(tokenizer: Any, *texts: str, more: int = 0) -> VerificationSample:
    """What an engine made of them, each id too high by ``more``."""
    ids = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    return VerificationSample(
        "an engine", [text.encode() for text in texts], [np.array(one, np.uint32) + more for one in ids]
    )


def test_right_samples_pass(checker: ReferenceChecker, tokenizer: Any) -> None:
    for number in range(200):
        checker.offer(sample_of(tokenizer, f"we feel {number}", "the night" * number))
    checker.finish()


def test_a_wrong_sample_is_reported_by_the_end(checker: ReferenceChecker, tokenizer: Any) -> None:
    right, wrong = sample_of(tokenizer, "we feel the night"), sample_of(tokenizer, "the day", more=1)
    checker._queue = [right, wrong, right]
    with pytest.raises(EngineMismatch, match=r"an engine differs from tokenizers at token 0 .* 'the day'"):
        checker.finish()


def test_a_wrong_sample_is_reported_while_others_are_offered(
    checker: ReferenceChecker, tokenizer: Any
) -> None:
    def go_on(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            checker.offer(sample_of(tokenizer, "the night"))
            time.sleep(0.01)

    checker.offer(sample_of(tokenizer, "the day", more=1))
    with pytest.raises(EngineMismatch):
        go_on(30)


def test_offering_never_waits_for_the_reference(tokenizer: Any) -> None:
    def slow() -> Encoder:
        time.sleep(60)
        raise AssertionError("nothing waits so long")

    started = time.monotonic()
    with closing(ReferenceChecker(slow)) as checker:
        for _ in range(1000):
            checker.offer(sample_of(tokenizer, "the night " * 100))
    assert time.monotonic() - started < 30


def test_a_reference_that_cannot_be_loaded_is_an_error(tokenizer: Any) -> None:
    def missing() -> Encoder:
        raise UserError("it is gone")

    with closing(ReferenceChecker(missing)) as checker, pytest.raises(UserError, match="it is gone"):
        checker.finish()


def test_a_process_that_is_killed_is_an_error(checker: ReferenceChecker) -> None:
    checker.finish()
    os.kill(checker._process.pid or 0, signal.SIGKILL)
    checker._process.join()
    checker.offer(VerificationSample("an engine", [b"a"], [np.zeros(1, np.uint32)]))
    with pytest.raises(UserError, match=r"checks the engine ended with status -9 .*memory"):
        checker.finish()
