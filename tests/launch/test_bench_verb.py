"""``gemfit bench``: what it makes of records, what it runs, and what it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.metrics import EvalRecord, MemoryRecord, RankMemory, Record, SaveRecord, StepRecord
from gemfit.schemas.plan import Plan
from gemfit_launch.bench import runner
from gemfit_launch.bench.measurements import bench_measurements, percentile
from gemfit_launch.bench.synthetic_data import write_conversations
from gemfit_launch.predict.gpu_specs import GPU_SPECS
from gemfit_launch.runs.local import AttemptResult
from launch.conftest import Cli

WARMUP, STEPS = 2, 4


def step(number: int, seconds: float, at: float) -> StepRecord:
    return StepRecord(
        attempt=1,
        step=number,
        epoch=1.0,
        loss=2.0,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=1000 / seconds,
        time=at,
        data_seconds=0.1,
        seconds=seconds,
        tokens=1000,
        trained_tokens=600,
        rows_digest="0" * 32,
    )


def evaluation(number: int, seconds: float) -> EvalRecord:
    return EvalRecord(
        attempt=1,
        step=number,
        loss=2.0,
        perplexity=7.4,
        token_accuracy=0.5,
        tokens=9,
        seconds=seconds,
        time=0.0,
    )


def save(number: int, seconds: float) -> SaveRecord:
    return SaveRecord(attempt=1, step=number, stall_seconds=seconds, write_seconds=9.0, bytes=8, time=0.0)


def memory(gpu_name: str | None = None) -> MemoryRecord:
    ranks = (RankMemory(held=10, host=110), RankMemory(held=20, host=90, gpu=7, gpu_reserved=9))
    return MemoryRecord(attempt=1, step=6, ranks=ranks, gpu_name=gpu_name, time=0.0)


def records(gpu_name: str | None = None) -> list[Record]:
    """Steps of one second, 10 ms of writing after each; step 4 is evaluated and saved, and the last."""
    made: list[Record] = [evaluation(0, 50.0), step(1, 30.0, at=100.0)]
    at = 100.0
    for number in range(2, WARMUP + STEPS + 1):
        at += 1.01 + (2.0 + 0.5) * (number == 5)
        made.append(step(number, 1.0, at))
        made += [evaluation(4, 2.0), save(4, 0.5)] * (number == 4)
    return [*made, evaluation(6, 2.0), save(6, 0.5), memory(gpu_name)]


def test_the_wall_time_is_that_of_steps_evaluations_saves_and_the_rest(plan: Plan) -> None:
    found = bench_measurements(records(), plan, plan.recipe, WARMUP)
    assert found.steps == (1.0,) * STEPS
    each = {name: stall.each for name, stall in found.stalls.items()}
    assert each == pytest.approx(
        {"data": 0.1, "evaluation": 2.0, "checkpoint": 0.5, "logging": 0.01}, abs=1e-6
    )


def test_shares_are_those_of_the_rhythm_that_was_asked_for(plan: Plan) -> None:
    checkpoint = plan.recipe.checkpoint.model_copy(update={"every_steps": 5})
    rhythm = plan.recipe.model_copy(update={"checkpoint": checkpoint})
    stalls = bench_measurements(records(), plan, rhythm, WARMUP).stalls
    every = 1 + 2.0 / rhythm.evaluation.every_steps + 0.5 / 5 + 0.01
    assert stalls["checkpoint"].share == pytest.approx(0.1 / every)
    assert stalls["data"].share == pytest.approx(0.1 / every)


def test_warm_up_steps_are_left_out_of_speed(plan: Plan) -> None:
    speed = bench_measurements(records(), plan, plan.recipe, WARMUP).speed
    assert speed.step_median == 1.0
    assert speed.tokens_per_second == 1000
    assert speed.trained_tokens_per_second == 600
    with_first = bench_measurements(records(), plan, plan.recipe, 0 + 1).speed
    assert with_first.tokens_per_second == 1000  # step 2 counts, step 1 does not


def test_mfu_is_computed_where_the_gpu_is_known_and_counts_each_rank(plan: Plan) -> None:
    assert bench_measurements(records(), plan, plan.recipe, WARMUP).speed.mfu is None
    speed = bench_measurements(records("NVIDIA H100 80GB HBM3"), plan, plan.recipe, WARMUP).speed
    assert speed.flops is not None
    assert speed.mfu == pytest.approx(speed.flops / GPU_SPECS["h100-80"].peak_flops)
    assert speed.flops_without_embedding is not None
    assert speed.flops_without_embedding < speed.flops
    alone = plan.model_copy(update={"topology": plan.topology.model_copy(update={"ranks_per_node": 1})})
    one_rank = bench_measurements(records(), alone, plan.recipe, WARMUP).speed.flops
    assert one_rank == pytest.approx(2 * speed.flops)


def test_memory_is_of_the_rank_that_held_most(plan: Plan) -> None:
    peak = bench_measurements(records(), plan, plan.recipe, WARMUP).peak
    assert peak is not None
    assert (peak.measured, peak.host) == (100, 110)
    assert (peak.predicted or 0) > 0
    on_gpu = plan.model_copy(update={"topology": plan.topology.model_copy(update={"device": "cuda"})})
    gpu_peak = bench_measurements(records(), on_gpu, plan.recipe, WARMUP).peak
    assert gpu_peak is not None
    assert (gpu_peak.measured, gpu_peak.reserved) == (7, 9)
    assert (gpu_peak.predicted or 0) > (peak.predicted or 0)  # parameters are part of it


@pytest.mark.parametrize(("share", "expected"), [(0.9, 9), (0.91, 10), (0.5, 5), (1.0, 10)])
def test_a_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    assert percentile(list(range(10, 0, -1)), share) == expected


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: Callable[..., Any]) -> list[Plan]:
    """Training that writes records at once, and packs that are there; the plans that were trained."""
    plans: list[Plan] = []

    def carry_out(run: RunDir, plan: Plan, watch: object) -> AttemptResult:
        plans.append(plan)
        attempt = run.begin_attempt()
        run.logs.mkdir(exist_ok=True)
        run.log(attempt).write_text("what it printed\n")
        if plan.recipe.model.activation_checkpointing:
            return AttemptResult(attempt=attempt, returncode=-9, verdict=None)
        lines = [step(n, 1.0, time.time() + n) for n in range(1, plan.steps.total + 1)]
        run.metrics_file.write_text("".join(line.model_dump_json() + "\n" for line in lines))
        done = Verdict(outcome=AttemptOutcome.COMPLETED, attempt=attempt, step=plan.steps.total)
        return AttemptResult(attempt=attempt, returncode=0, verdict=done)

    monkeypatch.setattr(runner, "carry_out", carry_out)
    monkeypatch.setattr(runner, "ensure_pack", lambda job, folder, **_: packed(job))
    monkeypatch.chdir(tmp_path)
    return plans


def test_every_combination_is_an_ordinary_run_of_its_own(
    cli: Cli, trained: list[Plan], conversations: Path
) -> None:
    vary = ("--vary", "strategy=ddp,fsdp2", "--vary", "nproc=2,4")
    result = cli("bench", "debug/cpu-tiny", "--data", conversations, "--steps", 4, *vary, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [r["changes"] for r in found["results"]] == [
        ["strategy=ddp", "nproc=2"],
        ["strategy=ddp", "nproc=4"],
        ["strategy=fsdp2", "nproc=2"],
        ["strategy=fsdp2", "nproc=4"],
    ]
    assert [(p.recipe.strategy.label, p.topology.world_size) for p in trained] == [
        ("ddp", 2),
        ("ddp", 4),
        ("fsdp2", 2),
        ("fsdp2", 4),
    ]
    assert [r["plan_digest"] for r in found["results"]] == [plan.digest for plan in trained]
    assert found["versions"]["torch"]
    assert found["machine"]["cores"] > 0


def test_no_run_folder_stays_unless_it_is_wanted(
    cli: Cli, trained: list[Plan], conversations: Path, tmp_path: Path
) -> None:
    bench = ("bench", "debug/cpu-tiny", "--data", conversations, "--steps", 4)
    assert cli(*bench).exit_code == 0
    assert not (tmp_path / "runs").exists()
    result = cli(*bench, "--keep")
    [folder] = (tmp_path / "runs").iterdir()
    assert f"kept: runs/{folder.name}" in result.output
    assert RunDir.open(folder / "1").plan() == trained[-1]


def test_a_variant_that_fails_is_reported_with_the_others(
    cli: Cli, trained: list[Plan], conversations: Path
) -> None:
    vary = ("--vary", "model.activation_checkpointing=true,false")
    result = cli("bench", "debug/cpu-tiny", "--data", conversations, "--steps", 4, *vary)
    assert result.exit_code == 1
    assert len(trained) == 2
    assert "model.activation_checkpointing=true: error: the training processes ended" in result.stdout
    assert "1.00 s" in result.stdout


def test_made_up_conversations_stand_in_for_data(cli: Cli, trained: list[Plan]) -> None:
    result = cli("bench", "debug/cpu-tiny", "--synthetic", "--steps", 4, "--warmup", 1)
    assert result.exit_code == 0, result.output
    assert trained[0].steps.total == 5
    assert "4 measured steps after 1 warm-up steps" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--synthetic"),
        (("--data", "nowhere.jsonl", "--synthetic"), "not both"),
        (("--synthetic", "--vary", "strategy"), "write KEY=A,B"),
        (("--synthetic", "--vary", "length.max_steps=1,2"), "sets length itself"),
        (("--synthetic", "--vary", "nproc=two"), "is not a number of ranks"),
        (("--synthetic", "--vary", "optim.learning_rat=1,2"), "learning_rate"),
        (
            ("--synthetic", "--vary", "strategy=ddp,single", "--nproc", "2"),
            "strategy single runs on one rank",
        ),
    ],
)
def test_a_mistake_in_any_setting_starts_none(
    options: tuple[str, ...], words: str, cli: Cli, trained: list[Plan]
) -> None:
    result = cli("bench", "debug/cpu-tiny", *options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert trained == []


def test_made_up_conversations_are_the_same_each_time_and_fill_the_rows(tmp_path: Path) -> None:
    counts = [write_conversations(tmp_path / name, seq_len=256, rows=100) for name in ("a", "b")]
    assert counts[0] == counts[1] > 40
    text = (tmp_path / "a").read_bytes()
    assert text == (tmp_path / "b").read_bytes()
    assert 100 * 256 * 4 <= len(text) < 1.2 * 100 * 256 * 4
    roles = [message["role"] for message in json.loads(text.splitlines()[0])["messages"]]
    assert roles[:2] == ["user", "assistant"]


@pytest.mark.slow
@pytest.mark.dist
def test_a_real_benchmark_measures_what_was_trained(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--set", "data.seq_len=64", "--set", "model.scratch.num_hidden_layers=1")
    result = cli("bench", "debug/cpu-tiny", "--synthetic", "--steps", 2, "--warmup", 1, *small, "--json")
    assert result.exit_code == 0, result.output
    [found] = json.loads(result.stdout)["results"]
    measured = found["measurements"]
    assert len(measured["steps"]) == 2
    assert 0 < measured["speed"]["trained_tokens_per_second"] <= measured["speed"]["tokens_per_second"]
    assert measured["stalls"]["evaluation"]["each"] > 0
    assert measured["stalls"]["checkpoint"]["each"] > 0
    assert measured["peak"]["measured"] > 0
    assert not (tmp_path / "runs").exists()
