"""``gemfit report`` hands its work to the train extra, with what only the launcher knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import MemoryRecord, RankMemory, StepRecord
from gemfit.schemas.plan import Plan
from gemfit.schemas.report_facts import RunFacts
from gemfit_launch.output.report_facts import read_facts
from gemfit_launch.predict.gpu_specs import find_gpu
from gemfit_launch.slurm.records.job_attempts import AttemptEnd, AttemptFiles, AttemptStart

Cli = Callable[..., Result]
Calls = list[tuple[str, list[str]]]


@pytest.fixture
def calls(hand_over: Callable[..., Calls]) -> Calls:
    return hand_over("report", ends=ExitCode.DONE)


def on_gpus(run: RunDir) -> RunDir:
    """The same run of a known model on two GPUs."""
    plan = run.plan()
    model = plan.recipe.model.model_copy(update={"id": "google/gemma-3-1b-pt", "scratch": None})
    changed = plan.model_copy(
        update={
            "recipe": plan.recipe.model_copy(update={"model": model}),
            "topology": plan.topology.model_copy(update={"device": "cuda"}),
        }
    )
    run.plan_file.write_text(changed.to_json())
    return run


def write(run: RunDir, *records: StepRecord | MemoryRecord) -> None:
    run.metrics_file.write_text("".join(record.model_dump_json() + "\n" for record in records))


def memory(gpu_name: str) -> MemoryRecord:
    return MemoryRecord(attempt=1, step=1, ranks=(RankMemory(held=1, host=2),), gpu_name=gpu_name, time=1.0)


def test_the_page_goes_to_the_run_folder_by_default(
    run: RunDir, plan: Plan, calls: Calls, cli: Cli, tmp_path: Path
) -> None:
    other = RunDir.create(tmp_path / "other", plan)
    assert cli("report", run.root).exit_code == 0
    assert cli("report", run.root, "--compare", other.root, "--out", "there", "--json").exit_code == 0
    (module, first), (_, second) = calls
    assert module == "gemfit.report"
    assert first[:3] == [str(run.root), "--out", str(run.report)]
    assert second[:4] == [str(run.root), str(other.root), "--out", "there"]
    assert second.count("--facts") == 2
    assert second[-1] == "--json"
    facts = RunFacts.model_validate_json(first[first.index("--facts") + 1])
    assert (facts.state, facts.peak_flops) == ("new", None)
    assert "CPUs" in facts.no_mfu


def test_open_shows_the_page_in_the_browser(
    run: RunDir, calls: Calls, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    cli("report", run.root)
    assert shown == []
    cli("report", run.root, "--open")
    assert shown == [(run.report / "index.html").as_uri()]


def test_a_folder_that_is_no_run_is_refused_before_anything_is_started(
    run: RunDir, calls: Calls, cli: Cli, tmp_path: Path
) -> None:
    result = cli("report", run.root, "--compare", tmp_path)
    assert (result.exit_code, calls) == (2, [])
    assert "is not a run folder" in result.stderr
    assert "did you mean 'h100-80'?" in cli("report", run.root, "--gpu", "h100-8").stderr


def test_the_gpu_is_the_one_that_the_run_recorded(run: RunDir) -> None:
    assert read_facts(on_gpus(run), None).no_mfu == "the GPU is unknown; name it with --gpu"
    write(run, memory("NVIDIA H100 80GB HBM3"))
    facts = read_facts(run, None)
    assert (facts.gpu, facts.peak_flops, facts.no_mfu) == ("h100-80", 989e12, "")
    assert read_facts(run, find_gpu("a100-40")).gpu == "h100-80", "what was recorded counts"


def test_operations_and_memory_are_those_of_the_forecast(run: RunDir) -> None:
    facts = read_facts(on_gpus(run), find_gpu("h100-80"))
    # Six operations a parameter and token, and the attention.
    assert facts.flops_per_token == pytest.approx(6 * 1e9, rel=0.1)
    assert facts.gpu_bytes is not None
    assert facts.gpu_bytes > 16e9
    assert facts.host_bytes is not None


def test_a_line_that_is_not_a_record_is_skipped(run: RunDir) -> None:
    without = read_facts(run, None)
    run.metrics_file.write_text("nonsense\n")
    assert read_facts(run, None) == without


def test_outcomes_that_a_job_recorded_are_handed_over(run: RunDir) -> None:
    run.begin_attempt()
    files = AttemptFiles(run, 1)
    files.write(files.start, AttemptStart(attempt=1, job="7", nodes=("a", "b"), step=0, time=1.0))
    ended = AttemptEnd(
        attempt=1, outcome=AttemptOutcome.CRASHED, step=5, reason="rank 3 died", node="b", time=2.0
    )
    files.write(files.end, ended)
    (ending,) = read_facts(run, None).endings
    assert (ending.outcome, ending.reason, ending.nodes) == (AttemptOutcome.CRASHED, "rank 3 died", ("b",))
