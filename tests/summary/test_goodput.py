"""Goodput: parts of the allocated time, over attempts and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.core.atomic_file import write_atomic
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import AttemptRecord
from gemfit.schemas.goodput import Goodput
from gemfit.schemas.metrics import (
    EvalRecord,
    HardwareRecord,
    Host,
    Record,
    SaveRecord,
    StartRecord,
    StepRecord,
)
from gemfit.schemas.plan import PackReference, Topology
from gemfit.schemas.report_facts import Ending
from gemfit.summary.attempts import summarize_attempts
from gemfit.summary.goodput import goodput_line, measure_goodput
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request


def make_run(folder: Path, ranks: int = 2) -> RunDir:
    plan = make_plan(
        Request(name="debug/cpu-tiny").recipe(),  # 16 rows per step
        topology=Topology(nodes=1, ranks_per_node=ranks, device="cpu"),
        pack=PackReference(fingerprint="p" * 32, folder="pack"),
        rows=1000,
        rows_are_packed=True,
    )
    return RunDir.create(folder, plan)


def began(run: RunDir, begin: float, end: float | None = None) -> int:
    number = run.begin_attempt()
    record = AttemptRecord(attempt=number, plan_digest="", began=begin, ended=end)
    write_atomic(run.attempt_record_file(number), record.to_json())
    return number


def step(
    number: int, attempt: int, end: float, seconds: float = 2.0, wait: float | None = None
) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=number,
        epoch=0.0,
        loss=1.0,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens_per_second=1.0,
        time=end,
        seconds=seconds,
        wait_seconds=wait,
        rows_digest="",
    )


def start(attempt: int, first: int, end: float, seconds: float, **parts: float) -> StartRecord:
    known: Any = {name.replace("_", " "): value for name, value in parts.items()}
    known = {"imports": seconds - sum(parts.values())} | known
    return StartRecord(attempt=attempt, step=first, seconds=seconds, parts=known, time=end)


def hardware(attempt: int, ranks: int, time: float) -> HardwareRecord:
    host = Host(ranks=ranks, cpu="", cores=1, memory=1)
    return HardwareRecord(attempt=attempt, step=0, hosts=(host,), versions={}, time=time)


def measured(run: RunDir, records: Sequence[Record], **known: Any) -> Goodput:
    endings = known.pop("endings", ())
    attempts = summarize_attempts(run, records, endings=endings, state=AttemptOutcome.COMPLETED)
    found = measure_goodput(run, records, attempts, **known)
    assert found is not None
    assert sum(found.parts.values()) == pytest.approx(found.allocated_seconds)
    assert all(seconds >= 0 for seconds in found.parts.values())
    return found


def test_an_attempt_that_ends_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    attempt = began(run, 100.0, 130.0)
    records: list[Record] = [
        # The first step takes 6 s, the others 2 s: 4 s of it are warming up.
        step(1, attempt, 116.0, 6.0),
        start(attempt, 1, 116.0, 16.0, evaluation=3.0, first_step=6.0),
        EvalRecord(
            attempt=attempt, step=0, loss=1, perplexity=1, token_accuracy=0, tokens=1, seconds=3.0, time=110.0
        ),
        step(2, attempt, 118.0),
        step(3, attempt, 120.0, wait=0.5),
        SaveRecord(attempt=attempt, step=3, stall_seconds=1.0, write_seconds=4.0, bytes=1, time=125.0),
    ]
    found = measured(run, records, price=36.0)
    assert found.allocated_seconds == 60.0  # of two ranks
    of_one_rank = {part: seconds / 2 for part, seconds in found.parts.items() if seconds}
    assert of_one_rank == {
        "kept steps": 5.5,
        "slow-rank wait": 0.5,
        "start": 7.0 + 4.0,
        "evaluation": 3.0,
        "saving": 1.0 + 4.0,
        "other": 5.0,
    }
    assert found.share == pytest.approx(11 / 60)
    assert found.cost is not None
    assert found.cost["kept steps"] == pytest.approx(0.11)
    line = goodput_line(found)
    assert line.startswith("goodput 18.3% of 0.02 CPU rank-hours in 1 attempt; the rest: start 36.7%, ")
    assert line.endswith("at 36.00 per hour: 0.60, of it 0.11 for kept steps")


def test_steps_that_a_later_attempt_repeats_on_another_number_of_ranks_are_replayed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first, second = began(run, 0.0, 14.0), began(run, 50.0, 60.0)
    records: list[Record] = [hardware(first, 4, 1.0)]
    records += [step(n, first, 4.0 + 2 * n) for n in range(1, 5)]
    records += [hardware(second, 3, 52.0), *(step(n, second, 50.0 + 2 * n) for n in range(3, 6))]
    found = measured(run, records)
    assert found.allocated_seconds == 4 * 14 + 3 * 10
    assert found.ranks == (4, 3)
    assert found.between_seconds == 36.0
    # Two of its four steps, and the 2 s of the one that it did not finish.
    assert found.parts["replayed steps"] == pytest.approx(4 * (4.0 + 2.0))
    assert found.parts["kept steps"] == pytest.approx(4 * 4.0 + 3 * 6.0)


def test_idle_slots_are_their_share_of_kept_steps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ranks=3)  # 16 rows in 18 slots
    attempt = began(run, 0.0, 9.0)
    found = measured(run, [step(1, attempt, 9.0, 9.0)])
    assert found.parts["idle slots"] / found.allocated_seconds == pytest.approx(2 / 18)
    assert found.share == pytest.approx(16 / 18)


def test_nodes_that_an_attempt_leaves_idle_are_allocated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ranks=2)
    whole = measured(run, [step(1, began(run, 0.0, 8.0), 8.0, 8.0)])
    record = run.attempt_record(1).model_copy(update={"idle_nodes": 3})
    run.attempt_record_file(1).write_text(record.to_json())
    found = measured(run, [step(1, 1, 8.0, 8.0)])
    assert found.parts["idle nodes"] == 3 * 2 * 8.0
    assert found.allocated_seconds == whole.allocated_seconds + found.parts["idle nodes"]
    assert found.parts["kept steps"] == whole.parts["kept steps"]


@pytest.mark.parametrize(
    ("reason", "part"), [("hung: no step for 1800 seconds", "hang"), ("a segfault", "replayed steps")]
)
def test_the_time_after_the_last_step_of_a_crash(tmp_path: Path, reason: str, part: Any) -> None:
    run = make_run(tmp_path / "run")
    attempt = began(run, 0.0, 100.0)
    ending = Ending(attempt=attempt, outcome=AttemptOutcome.CRASHED, reason=reason)
    found = measured(run, [step(1, attempt, 2.0)], endings=(ending,))
    assert found.parts[part] == pytest.approx(2 * 98.0)


def test_an_attempt_without_a_record_was_all_start(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    began(run, 0.0, 10.0)
    began(run, 20.0)  # its launcher was ended as well: nothing tells when
    found = measured(run, [])
    assert (found.parts["start"], found.attempts) == (20.0, 1)


def test_before_the_first_attempt_there_is_no_goodput(tmp_path: Path) -> None:
    assert measure_goodput(make_run(tmp_path / "run"), [], []) is None


def save(number: int, attempt: int, time: float, stall: float = 0.0) -> SaveRecord:
    return SaveRecord(
        attempt=attempt, step=number, stall_seconds=stall, write_seconds=0.0, bytes=1, time=time
    )


def evaluation(number: int, attempt: int, time: float, seconds: float) -> EvalRecord:
    return EvalRecord(
        attempt=attempt,
        step=number,
        loss=1,
        perplexity=1,
        token_accuracy=0,
        tokens=1,
        seconds=seconds,
        time=time,
    )


def test_steps_between_two_records_count_as_if_each_was_recorded(tmp_path: Path) -> None:
    """Every tenth of 50 steps of 2 s is recorded: 25, a stop that saves, 26 to 43, a crash, 36 to 50."""
    run = make_run(tmp_path / "run")
    spans = {1: (1, 25, 0.0), 2: (26, 43, 100.0), 3: (36, 50, 200.0)}
    records: list[Record] = []
    for number, (first, last, begin) in spans.items():
        assert began(run, begin, begin + 2.0 * (last - first + 1)) == number
        records.append(start(number, first, begin + 2.0, 2.0, first_step=2.0))
        for one in range(first, last + 1):
            if one % 10 == 0:
                records.append(step(one, number, begin + 2.0 * (one - first + 1)))
    records += [save(25, 1, 50.0), save(35, 2, 120.0)]
    crashed = Ending(attempt=2, outcome=AttemptOutcome.CRASHED, reason="a segfault")
    found = measured(run, sorted(records, key=lambda one: one.time), endings=(crashed,))
    assert found.parts["kept steps"] == pytest.approx(2 * 2.0 * 50)
    assert found.parts["replayed steps"] == pytest.approx(2 * 2.0 * 8)
    assert found.share == pytest.approx(50 / 58)


def test_an_attempt_between_two_records_keeps_its_steps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    attempt = began(run, 0.0, 8.0)
    records: list[Record] = [start(attempt, 1, 2.0, 2.0, first_step=2.0), save(4, attempt, 8.0)]
    assert measured(run, records).share == 1.0


SECONDS = st.floats(0.0, 100.0)


@given(
    attempts=st.lists(
        st.tuples(
            st.integers(1, 40),  # first step
            st.lists(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS), max_size=6),
            st.booleans(),
            SECONDS,
        ),
        min_size=1,
        max_size=3,
    ),
    every=st.integers(1, 5),
    outcome=st.sampled_from(list(AttemptOutcome)),
)
def test_parts_sum_to_the_allocated_time(
    tmp_path_factory: pytest.TempPathFactory,
    attempts: list[tuple[int, list[tuple[float, float, float, float]], bool, float]],
    every: int,
    outcome: AttemptOutcome,
) -> None:
    """Whatever the records say: steps, evaluations and saves may claim more time than there was."""
    run, records, now = make_run(tmp_path_factory.mktemp("runs") / "run"), list[Record](), 0.0
    for first, times, has_start, overhead in attempts:
        attempt, begin, number = began(run, now), now, first
        for place, (seconds, gap, evaluated, stalled) in enumerate(times):
            now += gap
            if not place and has_start:
                records.append(start(attempt, first, now, now - begin, first_step=min(gap, overhead)))
            number = (number // every + 1) * every
            records += [
                step(number, attempt, now, seconds, wait=stalled),
                evaluation(number, attempt, now, evaluated),
                save(number + 1, attempt, now, stalled),
            ]
    endings = [Ending(attempt=n + 1, outcome=outcome, reason="") for n in range(len(attempts))]
    if now > 0 and records:
        measured(run, records, endings=endings)
