"""Time to save, to stop and to resume: bytes of a checkpoint over the bandwidth of a file system. Pure.

Every byte is written once at a save, and read once at a resume, which verifies it meanwhile
(benchmarks/checkpoint_bytes.md). Ranks share the bandwidth; what starting and compiling take is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemfit_launch.predict.gpu_specs import GB


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointTimes:
    """Seconds, on a file system of ``gb_per_second`` (10⁹ bytes) for all ranks together."""

    gb_per_second: float
    checkpoint_bytes: int
    save_seconds: float
    stop_seconds: float
    """From the signal: at most the step under way, then a save."""
    resume_seconds: float
    """To read the checkpoint."""


def checkpoint_times(checkpoint_bytes: int, *, gb_per_second: float, step_seconds: float) -> CheckpointTimes:
    """Times for a checkpoint of this size where a step takes ``step_seconds`` at most."""
    seconds = checkpoint_bytes / (gb_per_second * GB)
    return CheckpointTimes(
        gb_per_second=gb_per_second,
        checkpoint_bytes=checkpoint_bytes,
        save_seconds=seconds,
        stop_seconds=step_seconds + seconds,
        resume_seconds=seconds,
    )
