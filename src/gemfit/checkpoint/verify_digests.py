"""``python -m gemfit.checkpoint.verify_digests RUN``: re-read every byte of all checkpoints. No torch.

Prints one JSON object: for each folder the damage found, ``null`` where it is intact.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gemfit.checkpoint.integrity import find_damage, read_manifest
from gemfit.core.marked_answer import write_answer
from gemfit.core.module_main import run_main
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir


def main(argv: list[str] | None = None) -> int:
    """Verify, and write the result as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.checkpoint.verify_digests",
        description="Compare checkpoints with their digests.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    arguments = parser.parse_args(argv)

    def action() -> ExitCode:
        write_answer(json.dumps(verify(RunDir.open(arguments.run))))
        return ExitCode.DONE

    return run_main(action)


def verify(run: RunDir) -> dict[str, str | None]:
    """For each committed folder, by its name, the first difference from its manifest."""
    return {folder.name: _problem(folder) for folder in sorted(run.committed())}


def _problem(folder: Path) -> str | None:
    try:
        manifest = read_manifest(folder)
    except UserError as error:  # whole, and written by another version
        return str(error)
    return manifest if isinstance(manifest, str) else find_damage(folder, manifest)


if __name__ == "__main__":
    sys.exit(main())
