"""What a run did, each step once, and the picture of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit.schemas.metrics import EvalRecord, StepRecord
from gemfit.schemas.metrics_history import read_history
from gemfit.train.telemetry.plot import main

PNG = b"\x89PNG\r\n\x1a\n"


def step(number: int, attempt: int = 1) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=number,
        epoch=number / 8,
        loss=5 / number + attempt / 100,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=10.0,
        time=float(number),
        rows_digest="0",
    )


def evaluation(number: int, attempt: int = 1) -> EvalRecord:
    return EvalRecord(
        attempt=attempt,
        step=number,
        loss=2.0,
        perplexity=7.4,
        token_accuracy=0.3,
        tokens=9,
        time=1.0,
    )


def write(path: Path, *records: StepRecord | EvalRecord, tail: str = "") -> Path:
    path.write_text("".join(record.model_dump_json() + "\n" for record in records) + tail)
    return path


def test_a_resumed_attempt_supersedes_the_later_steps_of_the_one_before(tmp_path: Path) -> None:
    first = [step(n) for n in range(1, 6)]
    second = [step(n, attempt=2) for n in range(4, 8)]
    metrics = write(tmp_path / "m", *first, evaluation(3), evaluation(5), *second, evaluation(6, attempt=2))
    history = read_history(metrics)
    assert [(r.step, r.attempt) for r in history.steps] == [
        (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 2),
    ]  # fmt: skip
    assert [r.step for r in history.evaluations] == [3, 6]
    assert history.resumed_at == (3,)


def test_a_third_attempt_that_goes_back_further_supersedes_both(tmp_path: Path) -> None:
    records = [step(1), step(2), step(3), step(3, 2), step(4, 2), step(2, 3), step(3, 3)]
    history = read_history(write(tmp_path / "m", *records))
    assert [(r.step, r.attempt) for r in history.steps] == [(1, 1), (2, 3), (3, 3)]


def test_a_last_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    history = read_history(write(tmp_path / "m", step(1), step(2), tail='{"kind": "st'))
    assert [r.step for r in history.steps] == [1, 2]


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"kind": "other"}', '{"kind": "step"}'])
def test_a_line_that_is_not_a_record_is_skipped_and_named(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    history = read_history(write(tmp_path / "m", step(1), tail=line + "\n"))
    assert [r.step for r in history.steps] == [1]
    assert "m:2: is not a complete record and is skipped" in caplog.text


def test_the_picture_is_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "metrics.jsonl", step(1), step(2), evaluation(2), step(2, 2), step(3, 2))
    assert main([str(tmp_path), "--out", str(tmp_path / "loss.png")]) == ExitCode.DONE
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)
    assert capsys.readouterr().out == f"{tmp_path / 'loss.png'}\n"


def test_a_run_without_evaluations_or_resumes_is_drawn_too(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", step(1))
    assert main([str(tmp_path), "--out", str(tmp_path / "loss.png")]) == ExitCode.DONE


def test_a_run_that_has_not_begun_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "loss.png")]) == ExitCode.USER_ERROR
    assert "appears with the first training step" in capsys.readouterr().err
    write(tmp_path / "metrics.jsonl", tail='{"kind"')
    assert main([str(tmp_path), "--out", str(tmp_path / "loss.png")]) == ExitCode.USER_ERROR
    assert "holds no training step yet" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_the_users_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "metrics.jsonl", step(1))
    assert main([str(tmp_path), "--out", str(tmp_path / "missing/loss.png")]) == ExitCode.USER_ERROR
    assert "cannot be written" in capsys.readouterr().err
