"""The parts of the check: their order, time limits, and which of them need the GPU to themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its module is ``part_NAME``."""

    name: str
    title: str
    seconds: float
    """Limit on a GPU; the time left for the whole check may be less."""
    measures: bool = False
    """Times or sizes count, so nothing else may use the GPU meanwhile."""


PREPARE = Part("prepare", "data, tokenizer and models with random weights", 60)
PARTS = (
    Part("run", "gemfit run, stopped and resumed", 90),
    Part("engines", "engines under NCCL: stop, resume by the next engine", 120),
    Part("compile", "compiled layers: frames stop growing", 90),
    Part("checkpoint_thread", "the checkpoint thread only waits for its copy", 45),
    Part("four_bits", "4-bit weights: CPU and GPU agree", 60),
    Part("machine", "energy, power, doctor, health check", 40, measures=True),
    Part("attention", "attention kernels: error against eager float32, time", 60, measures=True),
    Part("speed", "1b and 4b: tokens/s, MFU and memory, gemfit and TRL on the same rows", 200, measures=True),
    Part("copies", "checkpoint copies and host threads", 45, measures=True),
    Part("lora_base", "LoRA: frozen base in float32 and bfloat16", 45, measures=True),
    Part("memory", "peak memory in segments of fixed size", 60, measures=True),
)
"""In this order, what could be left out last; the first ones share the GPU."""
EVERY = {part.name: part for part in (PREPARE, *PARTS)}
