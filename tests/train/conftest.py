"""Training runs for many assertions: equal ones are made once; most fork their ranks (``rank_server``)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.metrics import EvalRecord, Record, StepRecord
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit.schemas.strategy import Engine
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack
from gemfit_launch.runs.local import AttemptResult, carry_out
from rank_server import RankServer

TESTS = Path(__file__).parents[1]
SAMPLE = TESTS.parent / "examples" / "conversations.jsonl"

# Six layers: five sliding ones and a global one, as in every Gemma 3, and some 100,000 parameters.
TINY = {
    "model.scratch.vocab_size": 512,
    "model.scratch.hidden_size": 48,
    "model.scratch.intermediate_size": 96,
    "model.scratch.num_attention_heads": 2,
    "model.scratch.head_dim": 24,
    "model.scratch.sliding_window": 16,
    "data.seq_len": 64,
    "optim.warmup_steps": 2,
    "batch.global_batch_size": 16,
    "batch.max_per_device_batch_size": 4,
    "length.num_epochs": "null",
    "length.max_steps": 6,
    "evaluation.every_steps": 1000,
    "checkpoint.every_steps": 1000,
}


class Silent:
    """Shows nothing: the records are read from the run folder."""

    def show(self, records: list[Record]) -> None:
        pass

    def say(self, line: str) -> None:
        pass


@dataclass(frozen=True)
class Attempts:
    """A run and what its attempts left behind."""

    run: RunDir
    ranks: RankServer

    def train(self, *, stop_at: int | None = None) -> AttemptResult:
        """One attempt, to its end or to a stop after ``stop_at``; forks its ranks, see ``RankServer``."""
        code = self.ranks.train(self.run, stop_at=stop_at)
        return AttemptResult(attempt=self.run.attempt, returncode=code, verdict=self.run.verdict())

    def launch(self, *, stop_at: int | None = None) -> AttemptResult:
        """The same as users do it: ``accelerate launch`` starts the ranks, which takes ten seconds longer."""
        return carry_out(self.run, self.run.plan(), Silent(), stop_at=stop_at)

    @property
    def verdict(self) -> Verdict | None:
        return self.run.verdict()

    def log(self, attempt: int = 1) -> str:
        return self.run.log(attempt).read_text()

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run.metrics_file.read_text().splitlines()]

    @cached_property
    def steps(self) -> list[StepRecord]:
        lines = [line for line in self.lines if line["kind"] == "step"]
        return [StepRecord.model_validate_json(json.dumps(line)) for line in lines]

    @cached_property
    def evaluations(self) -> list[EvalRecord]:
        lines = [line for line in self.lines if line["kind"] == "eval"]
        return [EvalRecord.model_validate_json(json.dumps(line)) for line in lines]

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.steps]

    @property
    def selftest(self) -> dict[str, Any]:
        """What the start-up self-test found."""
        lines = [line for line in self.log().splitlines() if "selftest {" in line]
        assert len(lines) == 1, self.log()
        found: dict[str, Any] = json.loads(lines[0].partition("selftest ")[2])
        return found

    @property
    def engine(self) -> Engine:
        return Engine.model_validate(self.selftest["engine"])


Launch = Callable[..., Attempts]


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the sample conversations: enough for two epochs of six steps."""
    path = tmp_path_factory.mktemp("data") / "conversations.jsonl"
    with SAMPLE.open() as lines:
        path.write_text("".join(itertools.islice(lines, 24)))
    return path


@pytest.fixture(scope="session")
def make_plan(conversations: Path) -> Callable[..., Plan]:
    """An exact plan for the tiny model, its pack built on first use."""

    def plan(strategy: str, ranks: int, *, offload: bool = False, **settings: Any) -> Plan:
        values = TINY | {name.replace("__", "."): value for name, value in settings.items()}
        request = Request(
            name="debug/cpu-tiny",
            settings=tuple(f"{name}={value}" for name, value in values.items()),
            data=str(conversations),
            strategy=strategy,
            offload=offload,
        )
        recipe = request.recipe()
        job = make_pack_job(recipe)
        wanted = resolve_plan(recipe, Ranks(nproc=ranks, device="cpu"))
        ensure_pack(job, Path(wanted.pack.folder), force=False, say=lambda line: None)
        return resolve_plan(recipe, Ranks(nproc=ranks, device="cpu"))

    return plan


@pytest.fixture(scope="session")
def launch(
    make_plan: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory, rank_server: RankServer
) -> Launch:
    """Train to the end and return what was left behind; the same arguments train once."""
    made: dict[str, Attempts] = {}

    def run(strategy: str, ranks: int, **settings: Any) -> Attempts:
        plan = make_plan(strategy, ranks, **settings)
        if plan.digest not in made:
            run_dir = RunDir.create(tmp_path_factory.mktemp(strategy) / "run", plan)
            attempts = Attempts(run_dir, rank_server)
            outcome = attempts.train()
            assert outcome.returncode == 0, attempts.log()
            made[plan.digest] = attempts
        return made[plan.digest]

    return run


@pytest.fixture
def fresh_run(make_plan: Callable[..., Plan], tmp_path: Path, rank_server: RankServer) -> Launch:
    """A run that was not trained yet."""

    def create(strategy: str, ranks: int, **settings: Any) -> Attempts:
        run = RunDir.create(tmp_path / "run", make_plan(strategy, ranks, **settings))
        return Attempts(run, rank_server)

    return create


@pytest.fixture
def forked_resume(rank_server: RankServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """``gemfit resume`` forks its ranks; test_resume_elsewhere.py has a test that lets it launch them."""

    def carry_out(
        run: RunDir,
        plan: Plan,
        watch: object,
        *,
        stop_at: int | None = None,
        allowed_changes: Collection[str] = (),
    ) -> AttemptResult:
        assert not allowed_changes
        run.adopt(plan)
        code = rank_server.train(run, stop_at=stop_at)
        run.end_attempt(run.attempt)
        return AttemptResult(attempt=run.attempt, returncode=code, verdict=run.verdict())

    monkeypatch.setattr("gemfit_launch.verbs._train.carry_out", carry_out)
