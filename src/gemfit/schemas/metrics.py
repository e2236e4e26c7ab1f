"""Records of a run: lines of `metrics.jsonl` and `ledger.jsonl`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from gemfit.schemas.base import Contract

UnixSeconds = Annotated[float, Field(ge=0, le=2.5e11)]
"""To the year 9,900: a date can be made of it."""


class StepRecord(Contract):
    """One line of ``metrics.jsonl`` after an optimizer step."""

    kind: Literal["step"] = "step"
    attempt: int
    step: int
    """Optimizer steps done, this one included."""
    epoch: float
    loss: float
    """Mean cross-entropy over all trained tokens of the global batch, in nats."""
    learning_rate: float
    grad_norm: float | None
    tokens_per_second: float
    """Real tokens (no padding), over all ranks."""
    time: UnixSeconds
    """Seconds since the Unix epoch."""
    data_seconds: float | None = None
    """Seconds that rank 0 waited for the batches of this step."""
    seconds: float | None = None
    """From asking for the step's batches to the agreement of all ranks that it is done, so without saves."""
    tokens: int | None = None
    """Real tokens (no padding), over all ranks."""
    trained_tokens: int | None = None
    """Tokens that the loss counts, over all ranks."""
    wait_seconds: float | None = None
    """How long a rank waited for the slowest one, mean over the ranks: at least, from their own times."""
    rows_digest: str
    """BLAKE2b of the row numbers that were fed in this step: equal runs took equal rows."""


class EvalRecord(Contract):
    """One line of ``metrics.jsonl`` after an evaluation on the validation split."""

    kind: Literal["eval"] = "eval"
    attempt: int
    step: int
    loss: float
    perplexity: float
    token_accuracy: float
    tokens: int
    seconds: float | None = None
    """Seconds that training waited for it."""
    time: UnixSeconds


class SaveRecord(Contract):
    """One line of ``metrics.jsonl`` after a checkpoint was committed."""

    kind: Literal["save"] = "save"
    attempt: int
    step: int
    stall_seconds: float
    """Seconds that training waited: for an earlier save, for the copy or the whole write, and for the commit
    where `checkpoint.max_lost_steps` bounds the loss."""
    write_seconds: float
    bytes: int
    copied_bytes: int | None = None
    """What rank 0 copied into host memory: its share, or nothing of it."""
    copy_seconds: float | None = None
    """Seconds that those copies took; on a GPU meanwhile the training goes on."""
    time: UnixSeconds


class RankMemory(Contract):
    """Peak memory of one rank from its first step on, in bytes."""

    held: int
    """Host memory of the process before the first step."""
    host: int
    """Host memory of the process; includes pages of mapped files, although ranks share them."""
    gpu: int | None = None
    """Tensors on its GPU."""
    gpu_reserved: int | None = None
    """Reserved by the allocator of its GPU."""


class MemoryRecord(Contract):
    """One line of ``metrics.jsonl`` at the end of an attempt."""

    kind: Literal["memory"] = "memory"
    attempt: int
    step: int
    ranks: tuple[RankMemory, ...]
    gpu_name: str | None = None
    time: UnixSeconds


class Gpu(Contract):
    """A GPU that ranks compute on."""

    name: str
    memory: int
    """In bytes."""
    power_limit_watts: float | None = None
    """Power limit by NVML; `None` if it reports none."""


class Host(Contract):
    """A machine of an attempt, and the number of ranks on it."""

    ranks: int
    cpu: str
    """Model of its processor."""
    cores: int
    """Logical processors of the machine."""
    memory: int
    """Of the machine, in bytes."""
    gpus: tuple[Gpu, ...] = ()
    """Those that its ranks use."""


class HardwareRecord(Contract):
    """One line of ``metrics.jsonl`` at the start of an attempt: machines, versions and attention."""

    kind: Literal["hardware"] = "hardware"
    attempt: int
    step: int
    """Optimizer steps done before it."""
    hosts: tuple[Host, ...]
    versions: dict[str, str]
    """Of gemfit and its dependencies; `CUDA` and `driver` where there are GPUs."""
    attention: str = ""
    """What the ranks compute with: that of the plan, or a faster one that has passed a probe."""
    attention_because: str = ""
    time: UnixSeconds
    """When training began, in seconds since the Unix epoch."""

    @property
    def ranks(self) -> int:
        """Over all hosts."""
        return sum(host.ranks for host in self.hosts)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Of all hosts."""
        return tuple(gpu for host in self.hosts for gpu in host.gpus)


class EnergyRecord(Contract):
    """One line of ``metrics.jsonl`` at the end of an attempt: readings of energy counters."""

    kind: Literal["energy"] = "energy"
    attempt: int
    step: int
    cpu_joules: float | None
    """CPUs of all hosts (RAPL), including other processes; `None` if one cannot be read."""
    gpu_joules: float | None
    """GPUs that the ranks use (NVML); `None` if one has no counter, and without GPUs."""
    seconds: float
    """From the start of training to its end."""
    time: UnixSeconds


ProgressActivity = Literal["evaluation", "checkpoint", "resume", "loading weights"]


class ProgressRecord(Contract):
    """One line of ``metrics.jsonl`` per minute of work between two steps: the attempt is alive."""

    kind: Literal["progress"] = "progress"
    attempt: int
    step: int
    """Optimizer steps done before it."""
    activity: ProgressActivity
    seconds: float
    """Since the activity began."""
    time: UnixSeconds


StartPart = Literal[
    "launcher",
    "processes",
    "imports",
    "model",
    "trainer",
    "engine",
    "weights",
    "self-test",
    "evaluation",
    "data",
    "first step",
]
"""Of the time from the command to the end of the first step, in this order."""


class StartRecord(Contract):
    """One line of ``metrics.jsonl`` after the first step of an attempt: how long the start took."""

    kind: Literal["start"] = "start"
    attempt: int
    step: int
    """Optimizer steps done, the first one included."""
    seconds: float
    """From the command, or from the start of the attempt in a Slurm job, to the end of the first step."""
    parts: dict[StartPart, float]
    """Seconds of rank 0; they sum to ``seconds``."""
    time: UnixSeconds


SlowCause = Literal["compute", "input", "network"]


class SlowRankRecord(Contract):
    """One line of ``metrics.jsonl`` where a rank has been slower than the others for 20 steps in a row."""

    kind: Literal["slow_rank"] = "slow_rank"
    attempt: int
    step: int
    rank: int
    host: str
    """Slurm's name of its node, else that of its machine."""
    cause: SlowCause
    seconds: float
    """Of its own computing, or waiting for input, in a step, or of a message that it sent or got; a mean."""
    others_seconds: float
    """The same of the median rank."""
    time: UnixSeconds

    @property
    def text(self) -> str:
        """The same as a sentence."""
        unit = "message" if self.cause == "network" else "step"
        return (
            f"rank {self.rank} on {self.host} is slower than the others at step {self.step}: {self.cause} "
            f"takes {self.seconds:.3g} s per {unit}, {self.others_seconds:.3g} s on the median rank"
        )


Record = (
    StepRecord
    | EvalRecord
    | SaveRecord
    | MemoryRecord
    | HardwareRecord
    | EnergyRecord
    | ProgressRecord
    | StartRecord
    | SlowRankRecord
)
"""A line of ``metrics.jsonl``."""

KINDS: dict[str, type[Record]] = {
    "step": StepRecord,
    "eval": EvalRecord,
    "save": SaveRecord,
    "memory": MemoryRecord,
    "hardware": HardwareRecord,
    "energy": EnergyRecord,
    "progress": ProgressRecord,
    "start": StartRecord,
    "slow_rank": SlowRankRecord,
}


def parse_record(line: bytes | str) -> Record:
    """One line of ``metrics.jsonl``; ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    return KINDS[json.loads(line)["kind"]].model_validate_json(line)


class LedgerRecord(Contract):
    """One line of ``ledger.jsonl`` after every optimizer step."""

    attempt: int
    step: int
    """Optimizer steps done, this one included."""
    rows: tuple[int, ...]
    """Rows of the pack as they were fed to the ranks, in the order of the step; -1 for an idle slot."""
