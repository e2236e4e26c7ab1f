"""Attempts, key figures and comparisons, computed from the records of a run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.report import inputs
from gemfit.report.axes import by_step, by_time
from gemfit.report.blocks import Note
from gemfit.report.compare import comparison, differing, unique_names
from gemfit.report.curves import training_charts
from gemfit.report.drawing import POINTS, draw, smoothed, thinned
from gemfit.report.figures import cumulative_tokens, key_figures, mfu_of, summarize, time_shares
from gemfit.report.load import RunReport, load_run
from gemfit.report.sections import attempts
from gemfit.report.speed_charts import speed_charts
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.evaluation import ConversationLosses
from gemfit.schemas.metrics import StartRecord
from gemfit.schemas.metrics_history import read_records
from gemfit.schemas.report_facts import Ending, RunFacts
from gemfit.summary.text_table import TextTable
from report.conftest import MakeRun, evaluated_model, evaluation, evaluation_at, step


@pytest.fixture(scope="module")
def report(make_run: MakeRun) -> RunReport:
    return load_run(make_run().root, RunFacts(), with_pack=False)


def test_key_figures_count_a_repeated_step_once(report: RunReport) -> None:
    figures = key_figures(report)
    assert (figures.step, figures.total_steps) == (30, 30)
    assert figures.tokens == 30_000
    assert figures.trained_tokens == 15_000
    assert figures.step_seconds == 60.0
    assert figures.tokens_per_second == 500.0
    assert figures.loss == 2.0
    assert figures.best is not None
    assert (figures.best.step, figures.best.loss) == (30, 2.125)
    # From the record of the machines of the first attempt to the last evaluation.
    assert figures.wall_seconds == (300 + 60 + 1) - 95


def test_the_summary_says_what_the_figures_say(report: RunReport) -> None:
    said = summarize(report, key_figures(report))
    assert "30 of 30 steps of 16 rows" in said
    assert "completed after 3 attempts; 2 steps had to be repeated" in said
    assert "from 5.1250 at step 0 to 2.1250 at step 30" in said
    assert "30,000 tokens at 500 tokens/s" in said


def test_parts_of_the_wall_time_sum_to_it(report: RunReport) -> None:
    parts = time_shares(report)
    assert parts["computing"] == 30 * (2.0 - 0.25)
    assert parts["waiting for data"] == 30 * 0.25
    assert parts["repeated steps"] == 2 * 2.0
    assert parts["validation"] == 3.0
    assert parts["waiting for checkpoints"] == 1.5
    assert sum(parts.values()) == pytest.approx(key_figures(report).wall_seconds)


def start_of(attempt: int, first: int) -> StartRecord:
    return StartRecord(attempt=attempt, step=first, seconds=1.0, parts={}, time=100.0 * attempt)


@pytest.fixture(scope="module")
def sparse(make_run: MakeRun) -> RunReport:
    """The same run, of which every second step is recorded; start records name the first ones."""
    run = make_run()
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    kept = [one for one in lines if one["kind"] != "step" or one["step"] % 2 == 0]
    kept += [json.loads(start_of(attempt, first).to_json()) for attempt, first in ((2, 11), (3, 21))]
    run.metrics_file.write_text("".join(f"{json.dumps(one)}\n" for one in kept))
    plan = run.plan()
    tracking = plan.recipe.tracking.model_copy(update={"log_every_steps": 2})
    every_second = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"tracking": tracking})})
    found = replace(load_run(run.root, RunFacts(), with_pack=False), plan=every_second)
    assert len(found.steps) == 15
    return found


def test_the_attention_is_the_one_that_the_ranks_took(report: RunReport) -> None:
    record = report.history.hardware[-1].model_copy(
        update={"attention": "varlen", "attention_because": "its kernel passed a probe on each of 2 ranks"}
    )
    undecided = report.plan.model_copy(update={"attention_if_proven": "varlen"})
    history = replace(report.history, hardware=(*report.history.hardware[:-1], record))
    fast = replace(report, plan=undecided, history=history)
    (overview, *_) = [block for block in inputs.plan(fast).blocks if isinstance(block, TextTable)]
    rows = {row[0]: row[1] for row in overview.rows}
    assert rows["attention"].startswith("varlen; ")
    assert rows["attention selected because"] == record.attention_because
    assert rows["plan digest"] == undecided.digest
    slow = replace(report, plan=undecided)
    assert differing([fast, slow]) == {"recipe.model.attention": ["varlen", "sdpa"]}


def test_steps_that_are_not_recorded_count_in_the_wall_time(report: RunReport, sparse: RunReport) -> None:
    assert time_shares(sparse) == pytest.approx(time_shares(report))


def test_steps_that_are_not_recorded_count_in_the_key_figures(report: RunReport, sparse: RunReport) -> None:
    whole, found = key_figures(report), key_figures(sparse)
    assert (whole.estimated, found.estimated) == (False, True)
    assert replace(found, estimated=False) == whole
    assert "trained on about 30,000 tokens at 500 tokens/s" in summarize(sparse, found)
    sums = cumulative_tokens(report.steps)
    assert sums is not None
    assert cumulative_tokens(sparse.steps) == sums[1::2]


def test_mfu_is_weighted_by_the_steps_that_a_record_stands_for(make_run: MakeRun) -> None:
    records = [step(1, 1), step(10, 1).model_copy(update={"tokens_per_second": 1000.0})]
    facts = RunFacts(gpu="h100-80", peak_flops=1e15, flops_per_token=4e11)
    found = key_figures(load_run(make_run(records=records).root, facts, with_pack=False)).mfu
    assert found == pytest.approx((1 * 0.1 + 9 * 0.2) / 10)


def test_an_attempt_supersedes_from_its_first_step_which_need_not_be_recorded(make_run: MakeRun) -> None:
    """Only steps 12 and 24 are recorded; the second attempt has resumed at step 11."""
    run = make_run()
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    kept = [one for one in lines if one["kind"] != "step" or one["step"] % 12 == 0]
    start = start_of(2, 11)
    early = evaluation_at(11, 1)  # of the first attempt, which the second has taken back
    kept += [json.loads(record.to_json()) for record in (start_of(1, 1), start, early)]
    kept = [one for one in kept if (one["kind"], one["attempt"], one["step"]) != ("step", 2, 12)]
    run.metrics_file.write_text("".join(f"{json.dumps(one)}\n" for one in kept))
    sparse = load_run(run.root, RunFacts(), with_pack=False)
    assert [record.step for record in sparse.steps] == [24]
    assert set(sparse.history.resumed_at) == {10, 23}
    assert 11 not in [record.step for record in sparse.history.evaluations]
    assert [record.step for record in sparse.attempts[0].repeated] == [12]
    assert time_shares(sparse)["repeated steps"] == 2 * 2.0
    assert "2 steps had to be repeated" in summarize(sparse, key_figures(sparse))


def test_a_record_stands_for_no_step_before_its_attempt(make_run: MakeRun) -> None:
    """Every fifth step is recorded; the second and the third attempt have resumed at step 8."""
    records = [start_of(1, 1), step(5, 1), step(10, 1), start_of(2, 8), step(10, 2)]
    records += [start_of(3, 8), step(10, 3), step(15, 3)]
    found = load_run(make_run(records=records).root, RunFacts(), with_pack=False)
    assert [one.counts for one in found.attempts] == [(5, 5), (3,), (3, 5)]
    assert [one.repeats for one in found.attempts] == [(0, 3), (3,), (0, 0)]
    assert time_shares(found)["repeated steps"] == 6 * 2.0


def test_attempts_have_an_outcome_and_the_steps_that_were_repeated(report: RunReport) -> None:
    first, second, third = report.attempts
    assert (first.first_step, first.last_step, [s.step for s in first.repeated]) == (1, 12, [11, 12])
    assert first.outcome == AttemptOutcome.INTERRUPTED
    assert "last 2 steps" in first.reason
    assert (second.outcome, second.repeated) == ("ended", ())
    assert (third.outcome, third.last_step) == (AttemptOutcome.COMPLETED, 30)


def test_an_outcome_that_a_job_recorded_takes_precedence_over_the_metrics(make_run: MakeRun) -> None:
    ending = Ending(attempt=1, outcome=AttemptOutcome.INTERRUPTED, reason="preempted", nodes=("n7",))
    report = load_run(make_run().root, RunFacts(endings=(ending,)), with_pack=False)
    first = report.attempts[0]
    assert (first.outcome, first.reason, first.nodes) == (AttemptOutcome.INTERRUPTED, "preempted", ("n7",))


def test_a_run_that_ended_without_a_verdict_has_crashed(make_run: MakeRun) -> None:
    run = make_run()
    run.verdict_file.unlink()
    assert load_run(run.root, RunFacts(), with_pack=False).state == AttemptOutcome.CRASHED
    with run.hold():
        assert load_run(run.root, RunFacts(), with_pack=False).state == "running"


def test_an_attempt_that_left_no_record_does_not_change_how_the_one_before_ended(make_run: MakeRun) -> None:
    run = make_run()
    run.begin_attempt()
    run.write_verdict(Verdict(outcome=AttemptOutcome.FATAL, attempt=4, step=30, reason="no such model"))
    report = load_run(run.root, RunFacts(), with_pack=False)
    assert (report.state, report.attempts[-1].outcome) == (AttemptOutcome.FATAL, "ended")
    notes = [block.text for block in attempts(report).blocks if isinstance(block, Note)]
    assert notes == ["Without a record: 1 attempt (4). The last one: fatal, no such model."]


def test_mfu_is_operations_over_the_peak_of_all_gpus(make_run: MakeRun) -> None:
    facts = RunFacts(gpu="h100-80", peak_flops=1e15, flops_per_token=4e11)
    report = load_run(make_run().root, facts, with_pack=False)
    assert mfu_of(report) == [pytest.approx(500 * 4e11 / 2e15)] * 30
    assert key_figures(report).mfu == pytest.approx(0.1)
    assert "mfu" in [chart.name for chart in speed_charts(report)]


def test_without_a_gpu_there_is_no_mfu(report: RunReport) -> None:
    assert key_figures(report).mfu is None
    assert "mfu" not in [chart.name for chart in speed_charts(report)]


def test_attempts_lie_one_behind_the_other_along_steps_and_time(report: RunReport) -> None:
    assert by_step(report).starts == ((1, 0.0, 10.0), (2, 10.0, 20.0), (3, 20.0, 30.0))
    starts = [(number, begin) for number, begin, _ in by_time(report).starts]
    assert starts == [(1, 0.0), (2, 100.0), (3, 200.0)]


@given(st.integers(POINTS + 1, 20_000), st.integers(0, 2**32 - 1))
def test_a_long_line_is_thinned_and_keeps_its_extremes(count: int, seed: int) -> None:
    y = np.random.default_rng(seed).normal(size=count)
    x = np.arange(count, dtype=np.float64)
    thin_x, thin_y = thinned(x, y)
    assert len(thin_x) <= POINTS
    assert (thin_y.min(), thin_y.max()) == (y.min(), y.max())
    assert (thin_x[0], thin_x[-1]) == (0, count - 1)
    assert set(zip(thin_x, thin_y, strict=True)) <= set(zip(x, y, strict=True))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=50), st.integers(1, 10))
def test_a_smoothed_value_is_the_mean_of_those_before_it(values: list[float], window: int) -> None:
    expected = [np.mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
    assert smoothed(np.array(values), window) == pytest.approx(expected, abs=1e-9)


def test_only_settings_that_differ_are_listed(make_run: MakeRun, report: RunReport) -> None:
    plan = report.plan
    other = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"seed": 7})})
    changed = load_run(make_run("other", of=other).root, RunFacts(), with_pack=False)
    assert differing([report, changed]) == {"recipe.seed": ["42", "7"]}
    assert differing([report, report]) == {}


def test_where_a_pack_lies_and_how_a_recipe_is_described_are_no_settings(
    make_run: MakeRun, report: RunReport
) -> None:
    plan = report.plan
    moved = plan.model_copy(
        update={
            "recipe": plan.recipe.model_copy(update={"description": "of another user"}),
            "pack": plan.pack.model_copy(update={"folder": "/elsewhere"}),
        }
    )
    assert differing([report, load_run(make_run("moved", of=moved).root, RunFacts(), with_pack=False)]) == {}


def test_runs_of_one_name_are_named_by_their_paths(make_run: MakeRun, report: RunReport) -> None:
    other = load_run(make_run().root, RunFacts(), with_pack=False)
    assert report.name == other.name
    assert unique_names([report, other]) == [str(report.folder.root), str(other.folder.root)]


def test_runs_measured_on_the_same_conversations_are_compared_pair_by_pair(make_run: MakeRun) -> None:
    def measured(name: str, losses: tuple[float, ...], pack: str = "p" * 32) -> RunReport:
        found = evaluation(evaluated_model("base", None, 5.0), evaluated_model("step 30", 30, 2.0), pack=pack)
        each = ConversationLosses(
            documents=(3, 5, 9), tokens=(10, 20, 10), losses={"base": (50.0, 100.0, 50.0), "step 30": losses}
        )
        run = make_run(name, evaluated=found, losses=each)
        return load_run(run.root, RunFacts(), with_pack=False)

    runs = [measured("one", (20.0, 40.0, 20.0)), measured("two", (15.0, 30.0, 15.0))]
    tables = {block.title: block for block in comparison(runs).blocks if isinstance(block, TextTable)}
    assert tables["Paired differences"].rows == (("two", "-0.5000 [-0.5000, -0.5000]", "3"),)
    apart = comparison([runs[0], measured("three", (1.0, 1.0, 1.0), pack="q" * 32)])
    assert "Paired differences" not in [b.title for b in apart.blocks if isinstance(b, TextTable)]
    assert any("evaluated on different conversations" in getattr(b, "text", "") for b in apart.blocks)


def test_a_long_run_of_many_attempts_gives_a_small_picture(make_run: MakeRun, tmp_path: Path) -> None:
    records = [step(n, 1 + n // 200) for n in range(1, 6001)]
    report = load_run(make_run(records=records).root, RunFacts(), with_pack=False)
    assert len(report.attempts) == 31
    svg = draw(training_charts(report)[0], tmp_path / "loss.png")
    assert len(svg) < 150_000


def test_values_that_no_axis_can_hold_are_left_out() -> None:
    odd = np.array([1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 3.0])
    x, y = thinned(np.arange(7.0), odd)
    assert (x.tolist(), y.tolist()) == ([0.0, 6.0], [1.0, 3.0])
    assert smoothed(odd, 7)[[0, 5, 6]].tolist() == [1.0, 1.0, 2.0], "one of them does not end the average"
    assert np.isnan(smoothed(odd[1:3], 2)).all()


@pytest.mark.parametrize("time", [math.nan, math.inf, -1.0, 1e300])
def test_a_record_of_no_time_is_skipped_and_named(
    time: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = {"kind": "eval", "attempt": 1, "step": 1, "loss": 1.0, "perplexity": 1.0, "token_accuracy": 1.0}
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record | {"tokens": 1, "time": value}) for value in (time, 5.0)]
    path.write_text("\n".join(lines) + "\n")
    assert [one.time for one in read_records(path)] == [5.0]
    assert f"{path}:1: is not a complete record and is skipped" in caplog.text
