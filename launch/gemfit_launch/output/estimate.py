"""What fits, as a person reads it, and as a program does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gemfit.schemas.recipe import Recipe
from gemfit_launch.output.forecast import between, memory_json, performance_json
from gemfit_launch.output.tables import console, table
from gemfit_launch.predict.gpu_specs import Card
from gemfit_launch.predict.memory import gigabytes
from gemfit_launch.predict.performance import TRUST
from gemfit_launch.predict.search import Candidate, best_of_each, smaller


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What was asked for."""

    name: str
    recipe: Recipe
    card: Card
    arguments: tuple[str, ...]
    """RECIPE and its options, as they were given."""

    def command(self, way: Candidate) -> str:
        """The command line that plans ``way``."""
        options = way.options(self.recipe)
        return shlex.join(["gemfit", "plan", *self.arguments, "--gpu", self.card.name, *options])


def fit_json(asked: Asked, ways: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Every way that was looked at, fastest first, those that do not fit last."""
    return [
        {
            "strategy": way.label,
            "gpus": way.gpus,
            "per_device_batch_size": way.setting.per_device_batch_size,
            "gradient_accumulation_steps": way.setting.gradient_accumulation_steps,
            "activation_checkpointing": way.setting.checkpointing,
            "fits": way.fits,
            "memory": memory_json(way.memory),
            "time": performance_json(way.performance),
            "command": asked.command(way),
        }
        for way in ways
    ]


def show_fit(asked: Asked, ways: Sequence[Candidate], *, everything: bool) -> None:
    """The fastest way for each number of GPUs, or of each strategy too; then what does not fit, and why."""
    out = console()
    model = asked.recipe.model
    how = f"LoRA of rank {model.lora.rank}" if model.lora else "full fine-tune"
    how += f" over {model.quantization.type}" if model.quantization else ""
    row = f"{asked.recipe.batch.global_batch_size} rows of {asked.recipe.data.seq_len:,} tokens a step"
    out.print(f"{asked.name} on {asked.card.name}: {how}, {model.dtype}, {row}\n", style="bold")
    fitting = [way for way in ways if way.fits]
    best = best_of_each(fitting) if everything else fastest_by_gpus(fitting)
    if best:
        numbers = ["GPUs", "rows", "steps", "GB", "tokens/s", "MFU", "host GB"]
        columns = ["strategy", *numbers[:3], "recompute", *numbers[3:]]
        out.print(table(columns, [_row(way) for way in best], numbers=numbers))
        out.print(
            "\nrows: a GPU takes at once; steps: micro-steps; GB: of each GPU; host GB: of each node",
            style="dim",
        )
        out.print(f"tokens/s, MFU: {TRUST}\n", style="dim")
        if any(_adds_in_bfloat16(way) for way in best):
            out.print("zero1 adds micro-steps up in bfloat16, where the others use float32.\n", style="dim")
        out.print("\n".join(asked.command(way) for way in best[:1]), soft_wrap=True)
    else:
        out.print(f"Nothing fits on these numbers of GPUs: more of them, a larger card, or {smaller(model)}.")
    if rows := [row for row in map(_why_not, by_label(ways).values()) if row is not None]:
        out.print("\nWhat does not fit", style="bold")
        out.print(table(["strategy", "fits from", "below that"], rows))


def fastest_by_gpus(ways: Sequence[Candidate]) -> list[Candidate]:
    """The first of each number of GPUs, in the order given."""
    first: dict[int, Candidate] = {}
    for way in ways:
        first.setdefault(way.gpus, way)
    return list(first.values())


def by_label(ways: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Ways of each strategy."""
    groups: dict[str, list[Candidate]] = {}
    for way in ways:
        groups.setdefault(way.label, []).append(way)
    return groups


def _why_not(ways: Sequence[Candidate]) -> tuple[str, str, str] | None:
    """Of one strategy: the number of GPUs from which it fits, and what is too large on fewer."""
    fitting = {way.gpus for way in ways if way.fits}
    failing = [way for way in ways if way.gpus not in fitting]
    if not failing:
        return None
    most = max(way.gpus for way in failing)
    closest = min((way for way in failing if way.gpus == most), key=lambda way: way.memory.gpu_bytes)
    memory, largest = closest.memory, closest.memory.largest
    if memory.gpu_bytes <= closest.card.usable_bytes:
        why = f"{_gpus(most)}: {gigabytes(memory.host_node_bytes)} of each node's memory"
        return ways[0].label, _gpus(min(fitting)) if fitting else "never", why
    why = (
        f"{_gpus(most)}: {gigabytes(memory.gpu_bytes)} at least, "
        f"states alone {gigabytes(memory.states_bytes)}, "
        f"most: {largest.name} {gigabytes(largest.bytes)}"
    )
    return ways[0].label, _gpus(min(fitting)) if fitting else "never", why


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count > 1 else ''}"


def _adds_in_bfloat16(way: Candidate) -> bool:
    return (
        way.label.startswith("zero1")
        and way.setting.gradient_accumulation_steps > 1
        and way.setting.compute_bytes == 2
    )


def _row(way: Candidate) -> tuple[str, ...]:
    memory, performance = way.memory, way.performance
    return (
        way.label,
        str(way.gpus),
        str(way.setting.per_device_batch_size),
        str(way.setting.gradient_accumulation_steps),
        "yes" if way.setting.checkpointing else "no",
        f"{memory.gpu_bytes / 1e9:.1f}",
        between(performance.tokens_per_second, ",.0f"),
        between(performance.mfu, ".0%"),
        f"{memory.host_node_bytes / 1e9:,.0f}",
    )
