"""``python -m gemfit.evaluate RUN [options]``: evaluate models of a run and write ``evaluation.json``.

With ``--nproc`` it starts that many ranks of itself; under torchrun or ``accelerate launch`` it is one.
Exit status 0, or 2 with ``error: …`` on stderr for mistakes of the user.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gemfit.core.install_hint import require_packages
from gemfit.core.os_errors import explaining_os_errors
from gemfit.errors import ExitCode, UserError

if TYPE_CHECKING:
    import torch


def main(argv: list[str] | None = None) -> int:
    """Parse the options and evaluate, on one rank or many."""
    arguments = _parser().parse_args(argv)
    # Before transformers is imported: it would log about frameworks and draw progress bars.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # Seconds of imports after --help.
    from gemfit.evaluate.launch import as_rank, is_rank, start_ranks  # noqa: PLC0415

    try:
        if arguments.nproc > 1 and not is_rank():
            return start_ranks(sys.argv[1:] if argv is None else argv, arguments.nproc, arguments.device)
        with explaining_os_errors(), as_rank(arguments.device) as device:
            return _evaluate(arguments, device)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        return ExitCode.USER_ERROR


def _evaluate(arguments: argparse.Namespace, device: torch.device) -> ExitCode:
    from gemfit.evaluate.harness import require_harness  # noqa: PLC0415
    from gemfit.evaluate.models import find_models  # noqa: PLC0415
    from gemfit.evaluate.run_evaluation import EvaluationSettings, evaluate  # noqa: PLC0415  (as above)
    from gemfit.rundir import RunDir  # noqa: PLC0415
    from gemfit.train.collective import on_first_rank  # noqa: PLC0415

    on_first_rank(lambda: require_packages("gemfit eval", ("scipy",), "train"))
    run = RunDir.open(arguments.run)
    tasks = tuple(dict.fromkeys(filter(None, map(str.strip, (arguments.tasks or "").split(",")))))
    if arguments.tasks is not None and not tasks:
        raise UserError(
            f"--tasks {arguments.tasks!r}: names no task; leave it out, or see `lm-eval ls tasks`"
        )
    on_first_rank(lambda: require_harness(tasks))
    # One rank looks: another might find a checkpoint that was saved meanwhile.
    refs = on_first_rank(lambda: find_models(run, arguments.checkpoint or ["base", "latest"]))
    settings = EvaluationSettings(
        split=arguments.split,
        rows=arguments.rows,
        samples=arguments.samples,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        tasks=tasks,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    evaluate(run, refs, settings, device)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.evaluate", description="Evaluate models of a run."
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--checkpoint", action="append", help="a step, latest, best, base, or a model folder")
    parser.add_argument("--nproc", type=int, default=1, help="ranks on this machine")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--split", choices=["validation", "train"], default="validation")
    parser.add_argument("--rows", type=int, help="most rows")
    parser.add_argument("--samples", type=int, default=8, help="conversations with sample replies")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest reply")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy decoding")
    parser.add_argument("--tasks", help="of lm-evaluation-harness, with commas between")
    parser.add_argument("--limit", type=int, help="examples per task")
    parser.add_argument("--seed", type=int, default=0, help="of intervals, samples and sampling")
    return parser


if __name__ == "__main__":
    # Nothing has to be cleaned up: Ctrl-C ends each rank at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
