"""What fits where, and how training would scale: the tables of docs/scaling.md, as the launcher predicts.

    python benchmarks/scaling_plan.py [--out docs/scaling.md]

Nothing is measured: it writes what `gemfit fit` and `gemfit plan` predict. One second.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.request import Request
from gemfit_launch.predict.architecture import Architecture
from gemfit_launch.predict.gpu_specs import CARDS
from gemfit_launch.predict.model_shapes import find_architecture
from gemfit_launch.predict.performance import Range
from gemfit_launch.predict.search import Candidate, candidates

SIZES = ("270m", "1b", "4b", "12b", "27b")
FIT_CARDS = ("rtx-4090-24", "a100-40", "h100-80", "h200-141")
FIT_COUNTS = (1, 2, 4, 8, 16, 32, 64)
SCALE_CARD = "h100-80"
SCALE_COUNTS = (1, 8, 64, 512)
SCALE_BATCH = 512
"""Rows of a step in the scaling table: with the card's 64, at most 64 GPUs would have work."""


def load(name: str, *settings: str) -> tuple[Recipe, Architecture]:
    """A shipped recipe, and the architecture of its model."""
    recipe = Request(name=name, settings=settings).recipe()
    architecture = find_architecture(recipe.model).architecture
    assert architecture is not None
    return recipe, architecture


def fit_table(suffix: str, sizes: tuple[str, ...] = SIZES) -> str:
    """For each size and card: the fewest GPUs that do without offload, and what one GPU does with it."""
    lines = [f"| | {' | '.join(FIT_CARDS)} |", "|---|" + "---|" * len(FIT_CARDS)]
    for size in sizes:
        recipe, architecture = load(f"gemma3/{size}{suffix}")
        cells = [_fit_cell(candidates(recipe, architecture, CARDS[card], FIT_COUNTS)) for card in FIT_CARDS]
        lines.append(f"| {size}{suffix} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _fit_cell(ways: list[Candidate]) -> str:
    fitting = [way for way in ways if way.fits]
    direct = [way for way in fitting if not way.offloads]
    if not direct and not fitting:
        return "never, on up to 64"
    pool = direct or fitting
    fewest = min(way.gpus for way in pool)
    text = _short(next(way for way in pool if way.gpus == fewest))
    alone = next((way for way in fitting if way.gpus == 1 and way.offloads), None)
    if direct and fewest > 1 and alone is not None:
        text += f"<br>{_short(alone)}"
    return text


def _short(way: Candidate) -> str:
    rows = f"{way.setting.per_device_batch_size} row{'s' if way.setting.per_device_batch_size > 1 else ''}"
    again = ", recompute" if way.setting.checkpointing else ""
    host = f", {way.memory.host_node_bytes / 1e9:,.0f} GB host" if way.offloads else ""
    return f"{way.gpus} × {way.label}: {way.memory.gpu_bytes / 1e9:.0f} GB ({rows}{again}{host})"


def scaling_table(size: str) -> str:
    """One size on more and more cards, each time the fastest way that fits."""
    recipe, architecture = load(f"gemma3/{size}", f"batch.global_batch_size={SCALE_BATCH}")
    head = ["GPUs", "way", "GB a GPU", "tokens/s", "of ideal", "MFU", "moved, GB a rank and step"]
    lines = [f"| {' | '.join(head)} |", "|---:|---|---:|---:|---:|---:|---:|"]
    first: Candidate | None = None
    for gpus in SCALE_COUNTS:
        ways = candidates(recipe, architecture, CARDS[SCALE_CARD], (gpus,))
        best = next((way for way in ways if way.fits), None)
        if best is None:
            lines.append(f"| {gpus} | nothing fits | | | | | |")
            continue
        first = first or (best if not best.offloads else None)
        lines.append(_scaling_row(best, first))
    return "\n".join(lines)


def _scaling_row(way: Candidate, first: Candidate | None) -> str:
    rate = way.performance.tokens_per_second
    ideal = "–"
    if first is not None:
        each, base = rate.middle / way.gpus, first.performance.tokens_per_second.middle / first.gpus
        ideal = f"{each / base:.0%}"
    setting = way.setting
    how = f"{way.label}, {setting.per_device_batch_size} × {setting.gradient_accumulation_steps}"
    how += ", recompute" if setting.checkpointing else ""
    moved = way.performance.traffic.between_ranks / 1e9
    cells = [
        str(way.gpus),
        how,
        f"{way.memory.gpu_bytes / 1e9:.1f}",
        _range(rate, ",.0f"),
        ideal,
        _range(way.performance.mfu, ".0%"),
        f"{moved:,.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _range(values: Range, form: str) -> str:
    return f"{values.slow:{form}}–{values.fast:{form}}"


def tables() -> dict[str, str]:
    """Text of every table, by the name of its mark."""
    scaling = "\n\n".join(f"**{size}**\n\n{scaling_table(size)}" for size in SIZES)
    return {
        "fit": fit_table(""),
        "fit-lora": fit_table("-lora"),
        "fit-qlora": fit_table("-qlora", SIZES[1:]),
        "scaling": scaling,
    }


def fill(text: str) -> str:
    """``text`` with each table between ``<!-- NAME -->`` and ``<!-- end -->``."""
    for name, made in tables().items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        assert mark, f"docs/scaling.md has lost the mark of {name}"
        text = f"{before}{mark}\n{made}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the page whose tables are made anew")
    options = parser.parse_args()
    if options.out is None:
        print("\n\n".join(tables().values()))
    else:
        options.out.write_text(fill(options.out.read_text()))


if __name__ == "__main__":
    main()
