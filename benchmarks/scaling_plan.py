"""What fits where, and how training would scale: the tables of docs/scaling.md, as the launcher predicts.

    python benchmarks/scaling_plan.py [--out docs/scaling.md]

Nothing is measured: it writes what `gemfit estimate` and `gemfit plan` predict. Some ten seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.attention import possible_attentions
from gemfit_launch.planning.request import Request
from gemfit_launch.predict.gpu_specs import GPU_SPECS
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.performance import Range
from gemfit_launch.predict.search import Estimate, estimate_all
from gemfit_launch.predict.shape_lookup import find_shape

SIZES = ("270m", "1b", "4b", "12b", "27b")
FIT_GPUS = ("rtx-4090-24", "a100-40", "h100-80", "h200-141")
FIT_COUNTS = (1, 2, 4, 8, 16, 32, 64)
SCALE_GPU = "h100-80"
SCALE_COUNTS = (1, 8, 64, 512)
SCALE_BATCH = 512
"""Rows of a step in the scaling table: with the reference recipe's 64, GPUs would share rows from 65 on."""
ROW_SIZES = ("4b", "27b")
ROW_LENGTHS = (1024, 8192, 32768, 131072)
ROW_COUNTS = (8, 32, 128, 512)
ROW_GPU = "h100-80"
WAYS = ("fsdp2", "fsdp2-shard-grad-op", "hsdp", "zero1", "zero2", "zero3", "fsdp2+offload", "zero3+offload")
WAYS_OF = ("27b", 32768, "h200-141", 64)
"""Size, tokens of a row, GPU and number of GPUs of the table of what each way costs."""


def load(name: str, *settings: str) -> tuple[Recipe, ModelShape]:
    """A shipped recipe, and the shape of its model."""
    recipe = Request(name=name, settings=settings).recipe()
    shape = find_shape(recipe.model).shape
    assert shape is not None
    return recipe, shape


def fit_table(suffix: str, sizes: tuple[str, ...] = SIZES) -> str:
    """Per size and kind of GPU: the fewest GPUs that need no offload, and what one GPU does with it."""
    lines = [f"| | {' | '.join(FIT_GPUS)} |", "|---|" + "---|" * len(FIT_GPUS)]
    for size in sizes:
        recipe, shape = load(f"gemma3/{size}{suffix}")
        cells = [_fit_cell(estimate_all(recipe, shape, GPU_SPECS[gpu], FIT_COUNTS)) for gpu in FIT_GPUS]
        lines.append(f"| {size}{suffix} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _fit_cell(estimates: list[Estimate]) -> str:
    fitting = [estimate for estimate in estimates if estimate.fits]
    direct = [estimate for estimate in fitting if not estimate.offloads]
    if not direct and not fitting:
        return "never, on up to 64"
    pool = direct or fitting
    fewest = min(estimate.gpus for estimate in pool)
    text = _short(next(estimate for estimate in pool if estimate.gpus == fewest))
    alone = next((estimate for estimate in fitting if estimate.gpus == 1 and estimate.offloads), None)
    if direct and fewest > 1 and alone is not None:
        text += f"<br>{_short(alone)}"
    return text


def _short(estimate: Estimate) -> str:
    batch_size = estimate.config.per_device_batch_size
    rows = f"{batch_size} row{'s' if batch_size > 1 else ''}" + _shared(estimate)
    again = ", checkpointing" if estimate.config.activation_checkpointing else ""
    host = f", {estimate.memory.host_node_bytes / 1e9:,.0f} GB host" if estimate.offloads else ""
    return (
        f"{estimate.gpus} × {estimate.label}: {estimate.memory.gpu_bytes / 1e9:.0f} GB ({rows}{again}{host})"
    )


def _shared(estimate: Estimate) -> str:
    return f", SP {estimate.degree}" if estimate.degree > 1 else ""


def scaling_table(size: str) -> str:
    """One size on more and more GPUs, each time the fastest configuration that fits."""
    recipe, shape = load(f"gemma3/{size}", f"batch.global_batch_size={SCALE_BATCH}")
    head = ["GPUs", "configuration", "GB per GPU", "tokens/s", "of ideal", "MFU", "GB sent per rank and step"]
    lines = [f"| {' | '.join(head)} |", "|---:|---|---:|---:|---:|---:|---:|"]
    first: Estimate | None = None
    for gpus in SCALE_COUNTS:
        estimates = estimate_all(recipe, shape, GPU_SPECS[SCALE_GPU], (gpus,))
        best = next((estimate for estimate in estimates if estimate.fits), None)
        if best is None:
            lines.append(f"| {gpus} | nothing fits | | | | | |")
            continue
        first = first or (best if not best.offloads else None)
        lines.append(_scaling_row(best, first))
    return "\n".join(lines)


def _scaling_row(estimate: Estimate, first: Estimate | None) -> str:
    rate = estimate.performance.tokens_per_second
    ideal = "–"
    if first is not None:
        each, base = rate.middle / estimate.gpus, first.performance.tokens_per_second.middle / first.gpus
        ideal = f"{each / base:.0%}"
    config = estimate.config
    how = f"{estimate.label}, {config.per_device_batch_size} × {config.gradient_accumulation_steps}"
    how += _shared(estimate) + ", checkpointing" * config.activation_checkpointing
    moved = estimate.performance.communication.between_ranks / 1e9
    cells = [
        str(estimate.gpus),
        how,
        f"{estimate.memory.gpu_bytes / 1e9:.1f}",
        _range(rate, ",.0f"),
        ideal,
        _range(estimate.performance.mfu, ".0%"),
        f"{moved:,.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def estimate_rows(size: str, seq_len: int, gpu: str, counts: tuple[int, ...]) -> list[Estimate]:
    """All configurations of the reference batch of rows of ``seq_len`` tokens."""
    recipe, shape = load(f"gemma3/{size}", f"data.seq_len={seq_len}")
    attentions = possible_attentions(recipe, GPU_SPECS[gpu], shape.head_dim)
    return estimate_all(recipe, shape, GPU_SPECS[gpu], counts, attentions=attentions)


def rows_table(size: str) -> str:
    """The fastest configuration for rows of each length on each number of GPUs."""
    lines = [f"| GPUs | {' | '.join(f'{n:,} tokens' for n in ROW_LENGTHS)} |"]
    lines.append("|---:|" + "---|" * len(ROW_LENGTHS))
    found = {length: estimate_rows(size, length, ROW_GPU, ROW_COUNTS) for length in ROW_LENGTHS}
    for gpus in ROW_COUNTS:
        of_gpus = [[one for one in found[length] if one.gpus == gpus and one.fits] for length in ROW_LENGTHS]
        lines.append(f"| {gpus} | {' | '.join(map(_rows_cell, of_gpus))} |")
    return "\n".join(lines)


def _rows_cell(fitting: list[Estimate]) -> str:
    if not fitting:
        return "nothing fits"
    best = fitting[0]
    again = ", checkpointing" if best.config.activation_checkpointing else ""
    host = f", {best.memory.host_node_bytes / 1e9:,.0f} GB host" if best.offloads else ""
    memory, rate = best.memory.gpu_bytes / 1e9, best.performance.tokens_per_second
    return f"{best.label}{_shared(best)}{again}: {memory:.0f} GB{host}, {_range(rate, ',.0f')} tokens/s"


def ways_table() -> str:
    """Memory, speed and traffic of each strategy and degree, the fastest that fits of each."""
    size, seq_len, gpu, gpus = WAYS_OF
    estimates = estimate_rows(size, seq_len, gpu, (gpus,))
    head = ["strategy", "SP", "GB per GPU", "GB host per node", "tokens/s", "states", "heads", "copies"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for label in WAYS:
        for degree in (1, 2, 4, 8):
            of_way = [one for one in estimates if one.label == label and one.degree == degree and one.fits]
            if of_way:
                lines.append(_way_row(of_way[0]))
    return "\n".join(lines)


def _way_row(estimate: Estimate) -> str:
    memory, moved = estimate.memory, estimate.performance.communication
    cells = [
        estimate.label,
        str(estimate.degree),
        f"{memory.gpu_bytes / 1e9:.0f}",
        f"{memory.host_node_bytes / 1e9:,.0f}",
        _range(estimate.performance.tokens_per_second, ",.0f"),
        *(
            f"{bytes_sent / 1e9:,.0f}"
            for bytes_sent in (moved.gather + moved.reduce, moved.exchange, moved.replicas)
        ),
    ]
    return f"| {' | '.join(cells)} |"


def _range(values: Range, form: str) -> str:
    return f"{values.slow:{form}}–{values.fast:{form}}"


def tables() -> dict[str, str]:
    """Text of every table, by the name of its mark."""
    scaling = "\n\n".join(f"**{size}**\n\n{scaling_table(size)}" for size in SIZES)
    return {
        "estimate": fit_table(""),
        "estimate-lora": fit_table("-lora"),
        "estimate-qlora": fit_table("-qlora", SIZES[1:]),
        "scaling": scaling,
        "rows": "\n\n".join(f"**{size}**\n\n{rows_table(size)}" for size in ROW_SIZES),
        "ways": ways_table(),
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
