"""What a running job leaves for others to read: metric lines and the verdict."""

from __future__ import annotations

import json
from typing import Literal

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.base import Contract


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
    time: float
    """Seconds since the Unix epoch."""
    data_seconds: float | None = None
    """How long the first rank waited for the batches of this step, in seconds."""
    seconds: float | None = None
    """From asking for the step's batches to the agreement of all ranks that it is done."""
    tokens: int | None = None
    """Real tokens (no padding), over all ranks."""
    trained_tokens: int | None = None
    """Tokens that the loss counts, over all ranks."""
    rows_digest: str
    """BLAKE2b of the row numbers that were fed in this step: equal runs took equal rows."""


class EvalRecord(Contract):
    """One line of ``metrics.jsonl`` after an evaluation on the held-out rows."""

    kind: Literal["eval"] = "eval"
    attempt: int
    step: int
    loss: float
    perplexity: float
    token_accuracy: float
    tokens: int
    seconds: float | None = None
    """How long the training waited for it."""
    time: float


class SaveRecord(Contract):
    """One line of ``metrics.jsonl`` after a checkpoint was committed."""

    kind: Literal["save"] = "save"
    attempt: int
    step: int
    stall_seconds: float
    """How long the training waited: for an earlier save, and for the copy or the whole writing."""
    write_seconds: float
    bytes: int
    time: float


class RankMemory(Contract):
    """The most memory that one rank held from its first step on, in bytes."""

    held: int
    """By the process, in host memory, before the first step."""
    host: int
    """By the process, in host memory; pages of mapped files count, although ranks share them."""
    gpu: int | None = None
    """In tensors on its GPU."""
    gpu_reserved: int | None = None
    """By the allocator on its GPU."""


class MemoryRecord(Contract):
    """One line of ``metrics.jsonl`` at the end of an attempt."""

    kind: Literal["memory"] = "memory"
    attempt: int
    step: int
    ranks: tuple[RankMemory, ...]
    gpu_name: str | None = None
    time: float


class Gpu(Contract):
    """A GPU that ranks compute on."""

    name: str
    memory: int
    """In bytes."""
    power_limit_watts: float | None = None
    """The most that the board draws, as NVML says; `None` where it does not."""


class Host(Contract):
    """A machine of an attempt, and how many of the ranks run on it."""

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
    """One line of ``metrics.jsonl`` at the start of an attempt: what it runs on."""

    kind: Literal["hardware"] = "hardware"
    attempt: int
    step: int
    """Optimizer steps done before it."""
    hosts: tuple[Host, ...]
    versions: dict[str, str]
    """Of gemfit and of what it builds on; `CUDA` and `driver` where there are GPUs."""
    time: float
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
    """One line of ``metrics.jsonl`` at the end of an attempt: what counters of energy have counted in it."""

    kind: Literal["energy"] = "energy"
    attempt: int
    step: int
    cpu_joules: float | None
    """By the processors of all hosts (RAPL), whatever else ran there; `None` where one cannot be read."""
    gpu_joules: float | None
    """By the boards that the ranks use (NVML); `None` where one does not count, and without GPUs."""
    seconds: float
    """From the start of training to its end."""
    time: float


Record = StepRecord | EvalRecord | SaveRecord | MemoryRecord | HardwareRecord | EnergyRecord
"""A line of ``metrics.jsonl``."""

KINDS: dict[str, type[Record]] = {
    "step": StepRecord,
    "eval": EvalRecord,
    "save": SaveRecord,
    "memory": MemoryRecord,
    "hardware": HardwareRecord,
    "energy": EnergyRecord,
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
    """Rows of the pack as they were fed to the ranks, in the order of the step; -1 for an idle place."""


class AttemptRecord(Contract):
    """What an attempt was started with, besides the plan."""

    attempt: int
    plan_digest: str
    allowed_changes: tuple[str, ...] = ()
    """Keys of the training's identity that may differ from what a checkpoint was saved under."""


class EarlyStop(Contract):
    """Why a run ended before its last step: its held-out loss had stopped falling."""

    patience: int
    """As `EarlyStopping` had it, like `min_delta`."""
    min_delta: float
    best_step: int
    """Of the last improvement; of losses that were lower by less than ``min_delta`` there may be some."""
    best_loss: float


class Verdict(Contract):
    """How an attempt ended, as it states itself; an attempt without a verdict has crashed."""

    outcome: AttemptOutcome
    attempt: int
    step: int
    reason: str = ""
    early_stop: EarlyStop | None = None
    """Of a run that completed before its last step."""
