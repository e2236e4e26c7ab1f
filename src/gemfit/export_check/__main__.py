"""``python -m gemfit.export_check RUN FOLDER``: load an export with other programs, and compare."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from gemfit.checkpoint.resolve_checkpoint import LATEST
from gemfit.control_characters import escape_control_characters
from gemfit.core.json_file import read_json_object
from gemfit.core.module_main import run_main
from gemfit.core.process_group import MODEL_READER_SECONDS
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir


def main(argv: list[str] | None = None) -> int:
    """Print what each reader made of the folder; exit status 1 where one differs or fails."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.export_check")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("folder", type=Path, help="what was exported")
    parser.add_argument("--checkpoint", default=LATEST, help="a step, latest or best")
    parser.add_argument("--python", type=Path, action="append", default=[], help="Python of an environment")
    parser.add_argument("--rows", type=int, default=4, help="validation rows")
    parser.add_argument("--samples", type=int, default=2, help="greedy replies")
    parser.add_argument("--max-new-tokens", type=int, default=16, help="tokens of a reply")
    parser.add_argument("--timeout", type=float, default=MODEL_READER_SECONDS, help="seconds of a reader")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return run_main(lambda: check(arguments))


def check(arguments: argparse.Namespace) -> ExitCode:
    """Compute the run's values once, then ask one reader after the other."""
    # Seconds of imports, so that errors of the options come without the wait.
    from gemfit.export_check.expected import dtype_of, expected_values  # noqa: PLC0415
    from gemfit.export_check.readers import check_reader, readers_of  # noqa: PLC0415

    run, folder = RunDir.open(arguments.run), arguments.folder
    path = folder / "config.json"
    is_adapter = (folder / "adapter_config.json").is_file()
    if not path.is_file() and not is_adapter:
        raise UserError(f"{folder}: holds no exported model (no config.json, no adapter_config.json)")
    config = {} if is_adapter else read_json_object(path)
    expected = expected_values(
        run,
        arguments.checkpoint,
        dtype_of(folder, config),
        rows=arguments.rows,
        samples=arguments.samples,
        max_new_tokens=arguments.max_new_tokens,
    )
    model = run.plan().recipe.model
    base = {"base": model.id, "revision": model.revision}
    results = []
    for reader in readers_of(folder, arguments.python, base):
        result = check_reader(reader, folder, expected, arguments.timeout)
        results.append(result)
        if not arguments.json:
            line = f"{result.state}: {result.reader}: {result.found}"
            sys.stdout.write(f"{escape_control_characters(line)}\n")
            sys.stdout.flush()
    if arguments.json:
        shown = {"step": expected.step, "readers": [result.model_dump() for result in results]}
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    bad = any(result.state in ("different", "failed") for result in results)
    return ExitCode.FAILED if bad else ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
