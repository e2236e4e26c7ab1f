"""``python -m gemfit.train.telemetry.plot RUN --out PNG``: plot loss and learning rate over all attempts.

Steps that a resumed attempt repeated are drawn once, as the later attempt recorded them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gemfit.core.module_main import run_main
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.metrics_history import History, read_history


def main(argv: list[str] | None = None) -> int:
    """Parse the options, draw, print the path."""
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.train.telemetry.plot", description="Draw the losses of a run."
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    arguments = parser.parse_args(argv)

    def action() -> ExitCode:
        draw(read_history(RunDir(arguments.run).metrics_file), arguments.out, title=arguments.run.name)
        sys.stdout.write(f"{arguments.out}\n")
        return ExitCode.DONE

    return run_main(action)


def draw(history: History, out: Path, *, title: str) -> None:
    """Write the plot: losses on top, the learning rate below, resumes as dotted lines."""
    import matplotlib as mpl  # noqa: PLC0415  (a second of imports, which errors should not wait for)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (losses, rates) = plt.subplots(
        2, 1, sharex=True, figsize=(8, 5.5), height_ratios=[3, 1], layout="constrained"
    )
    _draw_losses(losses, history)
    losses.set_title(title)
    rates.plot([r.step for r in history.steps], [r.learning_rate for r in history.steps], color="tab:gray")
    rates.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rates.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
        for step in history.resumed_at:
            axes.axvline(step, color="black", linestyle=":", linewidth=1)
    try:
        figure.savefig(out, dpi=120)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; choose another --out") from None
    finally:
        plt.close(figure)


def _draw_losses(axes: Any, history: History) -> None:
    axes.plot([r.step for r in history.steps], [r.loss for r in history.steps], label="training")
    if history.evaluations:
        steps, values = [r.step for r in history.evaluations], [r.loss for r in history.evaluations]
        axes.plot(steps, values, marker="o", label="validation")
    if history.resumed_at:
        axes.plot([], [], color="black", linestyle=":", linewidth=1, label="resumed")
    axes.set(ylabel="loss (nats per token)")
    axes.legend()


if __name__ == "__main__":
    sys.exit(main())
