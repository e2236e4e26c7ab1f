"""A handmade run folder: records, pack and checkpoint manifests, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemfit.checkpoint.integrity import MANIFEST, MANIFEST_DIGEST, manifest_digest
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import EvaluatedModel, Evaluation, Interval, Score, TaskScore
from gemfit.schemas.manifest import (
    CheckpointManifest,
    Losses,
    PackInput,
    PackManifest,
    PackSource,
    SplitCounts,
    TokenFlow,
)
from gemfit.schemas.metrics import (
    EnergyRecord,
    EvalRecord,
    Gpu,
    HardwareRecord,
    Host,
    Record,
    SaveRecord,
    StepRecord,
)
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request

GPU = Gpu(name="H100", memory=80 * 2**30, power_limit_watts=700.0)


def recorded_run(root: Path, *, gpu: Gpu | None = None, attempts: bool = True, **settings: Any) -> RunDir:
    """Ten steps; with ``attempts`` steps 7 and 8 were done twice, by attempts 1 and 2."""
    plan = recorded_plan(root.parent, **settings)
    run = RunDir.create(root, plan)
    write_pack(plan)
    run.begin_attempt()
    records: list[Record] = [hardware(1, 0, 1000.0, gpu), evaluation(1, 0, 1010.0)]
    records += [step(1, number, 1010.0 + 10 * number) for number in range(1, 9 if attempts else 11)]
    if attempts:
        run.adopt(recorded_plan(root.parent, **settings | {"optim.learning_rate": 5e-5}))
        run.begin_attempt(["optim.learning_rate"])
        records += [hardware(2, 6, 2000.0, gpu)]
        records += [step(2, number, 2000.0 + 10 * (number - 6)) for number in range(7, 11)]
    last = 2 if attempts else 1
    end = records[-1].time
    records += [evaluation(last, 10, end + 5), SaveRecord(**saved(last, 10, end + 6))]
    run.metrics_file.write_text("".join(record.model_dump_json() + "\n" for record in records))
    for number in (6, 10):
        write_checkpoint(run, number, attempt=1 if number == 6 else last)
    return run


def recorded_plan(folder: Path, **settings: Any) -> Plan:
    """Two CPU ranks; data in a folder of this machine that is not to be published."""
    values = {"length.num_epochs": "null", "length.max_steps": 10} | settings
    request = Request(
        name="debug/cpu-tiny",
        settings=tuple(f"{key}={value}" for key, value in values.items()),
        data=str(folder / "private" / "conversations.jsonl"),
    )
    return make_plan(
        request.recipe(),
        topology=Topology(nodes=1, ranks_per_node=2, device="cpu"),
        pack=PackReference(fingerprint="f" * 32, folder=str(folder / "pack")),
        rows=100,
        rows_are_packed=True,
    )


def write_pack(plan: Plan) -> PackManifest:
    """The manifest of a pack, and no rows."""
    recipe, name = plan.recipe.data, plan.recipe.data.mixture[0].title
    flow = TokenFlow(
        tokens_read=50_011, repeated=101, oversampled=0, packed=49_990, duplicate=77, near_duplicate=0,
        left_by_weight=0, beyond_max_rows=0, overlong=0, truncated=0, untrained=45,
    )  # fmt: skip
    losses = Losses(
        lines_read=311, blank_lines=2, rejected_lines=0, duplicate_conversations=3, split_conversations=17,
        repeated_tokens=101, truncated_conversations=0, truncated_tokens=0, dropped_conversations=0,
        dropped_tokens=0,
    )  # fmt: skip
    train = SplitCounts(rows=100, conversations=290, documents=305, tokens=47_003, trained_tokens=31_007)
    held = SplitCounts(rows=6, conversations=16, documents=16, tokens=2_987, trained_tokens=1_999)
    manifest = PackManifest(
        fingerprint=plan.pack.fingerprint,
        tokenizer_digest="t" * 32,
        format=recipe.format,
        eos=recipe.eos,
        loss_on=recipe.loss_on,
        seq_len=recipe.seq_len,
        overlong=recipe.overlong,
        pad_id=0,
        bos_id=2,
        eos_id=1,
        splits={"train": train, "validation": held},
        losses=losses,
        flow={name: flow, "total": flow},
        roles={"system": 1_001, "user": 20_002, "assistant": 28_003, "tool": 0, "control": 5},
        pii={"email": 4, "phone": 1},
        sources=(PackSource(name=name, weight=1.0),),
        inputs=(PackInput(path=name, bytes=12, xxh3="b" * 32, source=0),),
        files=(),
        versions={},
    )
    folder = Path(plan.pack.folder)
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def write_checkpoint(run: RunDir, number: int, *, attempt: int, eval_loss: float | None = None) -> None:
    """The manifest of a checkpoint, and no weights."""
    manifest = CheckpointManifest(
        step=number,
        cursor_row=number * 16,
        world_size=2,
        strategy="ddp",
        plan_digest=run.plan().digest,
        training={},
        attempt=attempt,
        eval_loss=eval_loss,
        files=(),
    )
    folder = run.checkpoint(number)
    folder.mkdir(exist_ok=True)
    text = manifest.to_json().encode()
    (folder / MANIFEST).write_bytes(text)
    (folder / MANIFEST_DIGEST).write_bytes(manifest_digest(text))


def hardware(attempt: int, done: int, time: float, gpu: Gpu | None) -> HardwareRecord:
    host = Host(ranks=2, cpu="EPYC", cores=8, memory=64 * 2**30, gpus=(gpu, gpu) if gpu else ())
    versions = {"gemfit": "0.1.0", "torch": "2.13.0"}
    return HardwareRecord(attempt=attempt, step=done, hosts=(host,), versions=versions, time=time)


def energy(attempt: int, done: int, *, cpu: float | None, gpu: float | None = 1.0) -> EnergyRecord:
    return EnergyRecord(
        attempt=attempt, step=done, cpu_joules=cpu, gpu_joules=gpu, seconds=9.0, time=1000.0 * attempt + 5
    )


def step(attempt: int, number: int, time: float) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=number,
        epoch=number / 6.25,
        loss=4.0 - 0.1 * number - 0.01 * attempt,
        learning_rate=1e-4 / number,
        grad_norm=1.0,
        tokens_per_second=100.0,
        time=time,
        seconds=9.5,
        tokens=1_000 + number,
        trained_tokens=700 + number,
        rows_digest="",
    )


def evaluation(attempt: int, number: int, time: float) -> EvalRecord:
    loss = 4.123456789 - 0.1 * number
    return EvalRecord(
        attempt=attempt,
        step=number,
        loss=loss,
        perplexity=2.5 * loss,
        token_accuracy=0.1 + 0.01 * number,
        tokens=1_999,
        seconds=3.25,
        time=time,
    )


def saved(attempt: int, number: int, time: float) -> dict[str, Any]:
    values = {"stall_seconds": 1.5, "write_seconds": 2.0, "bytes": 10}
    return {"attempt": attempt, "step": number, "time": time} | values


def score(loss: float) -> Score:
    around = [Interval(value=v, low=v * 0.9, high=v * 1.1) for v in (loss, 3 * loss, loss / 10)]
    return Score(
        loss=around[0], perplexity=around[1], token_accuracy=around[2], tokens=1_999, conversations=16
    )


def evaluation_of(run: RunDir, *steps: int) -> Evaluation:
    """As ``gemfit eval`` would leave it, of the base model and of these steps."""
    models = [EvaluatedModel(name="base", step=None, overall=score(4.5), roles={}, depths={})]
    models += [
        EvaluatedModel(
            name=f"step {number}",
            step=number,
            overall=score(3.0 + number / 97),
            roles={"assistant": score(2.71828)},
            depths={"1": score(3.14159)},
            tasks=(TaskScore(task="arc_easy", metric="acc", value=0.4321, stderr=0.0123),),
        )
        for number in steps
    ]
    made = Evaluation(
        pack=run.plan().pack.fingerprint,
        split="validation",
        confidence=0.95,
        resamples=2_000,
        seed=7,
        world_size=1,
        models=tuple(models),
        differences={f"step {number}": Interval(value=-1.25, low=-1.5, high=-1.0) for number in steps},
        created="2026-11-24T00:00:00Z",
        versions={},
    )
    run.evaluation_file.parent.mkdir()
    run.evaluation_file.write_text(made.to_json())
    return made
