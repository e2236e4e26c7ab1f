"""A handmade run with three attempts, an evaluation and an audit; its texts are hostile."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data.conftest import random_conversations, sentence
from data.handmade import handmade
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.audit import Audit, AuditedModel, AuditedReply, AuditFinding, AuditScore
from gemfit.schemas.evaluation import (
    ConversationLosses,
    EvaluatedModel,
    Evaluation,
    Interval,
    Sample,
    SampleMessage,
    Score,
    TaskScore,
)
from gemfit.schemas.metrics import (
    EvalRecord,
    HardwareRecord,
    Host,
    MemoryRecord,
    RankMemory,
    Record,
    SaveRecord,
    StepRecord,
)
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request

HOSTILE = (
    "<script>alert(1)</script></div>\u202e\x00{{ 7 * 7 }}<img src=http://evil.example/x onerror=alert(2)>`$x$"
)
SECONDS = 2.0
MakeRun = Callable[..., RunDir]


def step(number: int, attempt: int, *, loss: float | None = None, tokens: int = 1000) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=number,
        epoch=number / 10,
        loss=5 - number / 10 if loss is None else loss,
        learning_rate=1e-4 * (1 - number / 40),
        grad_norm=1 + 40 / number,
        tokens_per_second=tokens / SECONDS,
        time=SECONDS * number + 100.0 * attempt,
        data_seconds=0.25,
        seconds=SECONDS,
        tokens=tokens,
        trained_tokens=tokens // 2,
        rows_digest="0" * 32,
    )


def evaluation_at(number: int, attempt: int) -> EvalRecord:
    return EvalRecord(
        attempt=attempt,
        step=number,
        loss=5.125 - number / 10,
        perplexity=100.0 - number,
        token_accuracy=number / 100,
        tokens=77,
        seconds=1.0,
        time=SECONDS * number + 100.0 * attempt + 1,
    )


def three_attempts() -> list[Record]:
    """The first crashes two steps after its save, the second is stopped, the third completes 30 steps."""
    records: list[Record] = [hardware(1), evaluation_at(0, 1)]
    records += [step(n, 1) for n in range(1, 13)]
    records += [save(10, 1), hardware(2)]
    records += [step(n, 2) for n in range(11, 21)]
    records += [evaluation_at(20, 2), save(20, 2), memory(20, 2), hardware(3)]
    records += [step(n, 3) for n in range(21, 31)]
    return [*records, evaluation_at(30, 3), save(30, 3), memory(30, 3)]


def hardware(attempt: int) -> HardwareRecord:
    host = Host(ranks=2, cpu="A processor", cores=8, memory=32_000_000_000)
    versions = {"gemfit": "0.1.0", "torch": "2.13.0"}
    return HardwareRecord(attempt=attempt, step=0, hosts=(host,), versions=versions, time=100.0 * attempt - 5)


def save(number: int, attempt: int) -> SaveRecord:
    time = SECONDS * number + 100.0 * attempt
    return SaveRecord(
        attempt=attempt, step=number, stall_seconds=0.5, write_seconds=1.5, bytes=10**6, time=time
    )


def memory(number: int, attempt: int) -> MemoryRecord:
    ranks = tuple(RankMemory(held=10**9, host=(3 + rank) * 10**9) for rank in range(2))
    return MemoryRecord(attempt=attempt, step=number, ranks=ranks, time=SECONDS * number + 100.0 * attempt)


def around(value: float, width: float = 0.1) -> Interval:
    return Interval(value=value, low=value - width, high=value + width)


def score(loss: float) -> Score:
    return Score(
        loss=around(loss),
        perplexity=around(10 * loss, 1),
        token_accuracy=around(0.4, 0.05),
        tokens=700,
        conversations=12,
    )


def evaluated_model(name: str, number: int | None, loss: float, *, text: str = HOSTILE) -> EvaluatedModel:
    prompts = [(SampleMessage(role="user", content=f"{index} {text}"),) for index in range(3)]
    return EvaluatedModel(
        name=name,
        step=number,
        overall=score(loss),
        roles={"user": score(loss + 0.5), "assistant": score(loss)},
        depths={"4+": score(loss + 0.4), "1": score(loss + 0.1), "2": score(loss + 0.2)},
        samples=tuple(Sample(prompt=p, reference="As it was.", reply=text) for p in prompts),
        tasks=(TaskScore(task="piqa", metric="acc", value=0.61, stderr=0.02),),
    )


def evaluation(*models: EvaluatedModel, pack: str = "p" * 32) -> Evaluation:
    made = models or (evaluated_model("base", None, 5.125), evaluated_model("step 30", 30, 2.125))
    return Evaluation(
        pack=pack,
        split="validation",
        confidence=0.95,
        resamples=2000,
        seed=1,
        world_size=2,
        models=made,
        differences={
            one.name: around(one.overall.loss.value - made[0].overall.loss.value) for one in made[1:]
        },
        settings={"samples": {"temperature": 0.0, "longest": 48}},
        created="2026-01-02T03:04:05Z",
        versions={"torch": "2.13.0"},
    )


def reply(number: int, variant: str, text: str, *, suite: str = "counterfactual") -> AuditedReply:
    return AuditedReply(
        suite=suite,
        prompt=str(number),
        variant=variant,
        messages=(SampleMessage(role="user", content=f"{variant} {HOSTILE}"),),
        reply=text,
        scores={"sentiment": number / 10, "words": float(number)},
    )


def audit(*, text: str = HOSTILE, prompts: int = 3) -> Audit:
    def audited(name: str, number: int | None) -> AuditedModel:
        says = "How often help is named; it does not say whether the help is right."
        value = Interval(value=0.5, low=0.25, high=0.75)
        named = AuditScore(
            suite="crisis", name="help", value=value, replies=3, better="higher", says=says, is_share=True
        )
        apart = [
            AuditScore(
                suite="counterfactual",
                name=f"sentiment, gender: {who}",
                value=Interval(value=sign * 0.25, low=sign * 0.25 - 0.125, high=sign * 0.25 + 0.125),
                replies=6,
                better="zero",
                says="Difference of the tone.",
                effect=sign * 0.5,
            )
            for who, sign in (("a woman", -1), ("a man", 1))
        ]
        warn = AuditFinding(suite="crisis", severity="warn", text="points to help half of the time")
        fail = AuditFinding(suite="crisis", severity="fail", text=HOSTILE, prompts=("1", "2"))
        pairs = [reply(n, who, text) for n in range(prompts) for who in ("a woman", "a man")]
        crisis = tuple(reply(n, "", text, suite="crisis") for n in range(prompts))
        return AuditedModel(
            name=name,
            step=number,
            scores=(named, *apart),
            findings=(warn, fail) if number else (),
            replies=(*pairs, *crisis),
        )

    return Audit(
        suites={"crisis": "0" * 32, "counterfactual": "1" * 32},
        confidence=0.9,
        resamples=1000,
        seed=3,
        models=(audited("base", None), audited("step 30", 30)),
        created="2026-01-02T03:04:05Z",
        versions={},
    )


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pack of 24 conversations."""
    rng = random.Random(1)
    text = [sentence(rng, 12) + "\n\nuser assistant system" for _ in range(300)]
    folder = tmp_path_factory.mktemp("packed") / "pack"
    handmade(train_tokenizer(text, 400), random_conversations(24)).write(folder)
    return folder


@pytest.fixture(scope="session")
def plan(pack: Path) -> Plan:
    """Two CPU ranks, thirty steps."""
    recipe = Request(name="debug/cpu-tiny").recipe()
    length = recipe.length.model_copy(update={"num_epochs": None, "max_steps": 30})
    return make_plan(
        recipe.model_copy(update={"length": length, "description": HOSTILE.replace("\x00", "")}),
        topology=Topology(nodes=1, ranks_per_node=2, device="cpu"),
        pack=PackReference(fingerprint="p" * 32, folder=str(pack)),
        rows=100,
        rows_are_packed=True,
    )


@pytest.fixture(scope="session")
def make_run(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """A completed run of three attempts by default."""

    def make(
        name: str = "run",
        *,
        records: Sequence[Record] | None = None,
        of: Plan = plan,
        evaluated: Evaluation | None = None,
        losses: ConversationLosses | None = None,
        audited: Audit | None = None,
    ) -> RunDir:
        run = RunDir.create(tmp_path_factory.mktemp("runs") / name, of)
        lines = three_attempts() if records is None else records
        run.metrics_file.write_text("".join(record.model_dump_json() + "\n" for record in lines))
        for _ in range(max(record.attempt for record in lines)):
            run.begin_attempt()
        run.write_verdict(Verdict(outcome=AttemptOutcome.COMPLETED, attempt=run.attempt, step=lines[-1].step))
        for value, file in (
            (evaluated, run.evaluation_file),
            (losses, run.evaluation_losses_file),
            (audited, run.audit_file),
        ):
            if value is not None:
                file.parent.mkdir(exist_ok=True)
                file.write_text(value.to_json())
        return run

    return make
