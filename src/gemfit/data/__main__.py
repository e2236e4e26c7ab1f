"""``python -m gemfit.data JOB.json --out FOLDER``: build one pack.

Exit status 0, or 2 with ``error: …`` on stderr for whatever a person can mend.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from gemfit.errors import ExitCode, UserError
from gemfit.manifest import PackManifest
from gemfit.packing import PackJob

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: list[str] | None = None) -> int:
    """Read the job, build the pack, say what is in it."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.data", description="Build one pack of rows.")
    parser.add_argument("job", type=Path, help="PackJob as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    arguments = parser.parse_args(argv)
    # SIGTERM takes the way of Ctrl-C, so that a cancelled build cleans up as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _say(_build(arguments.job, arguments.out), arguments.out)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was left behind\n")
        return INTERRUPTED
    return ExitCode.DONE


def _build(job_file: Path, out: Path) -> PackManifest:
    job = PackJob.read(job_file)
    # Before transformers is imported: it would warn about missing frameworks and forks.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from gemfit.data.build import build_pack  # noqa: PLC0415  a broken job is refused without the wait

    return build_pack(job, out.absolute())


def _say(manifest: PackManifest, out: Path) -> None:
    for name, counts in manifest.splits.items():
        sys.stderr.write(
            f"{name}: {counts.rows:,} rows of {manifest.seq_len}, {counts.conversations:,} conversations, "
            f"{counts.tokens:,} tokens, {counts.fill(manifest.seq_len):.2%} full\n"
        )
    if not manifest.splits["validation"].rows:
        sys.stderr.write("validation: empty, so there will be no evaluation\n")
    for name, number in manifest.losses.model_dump().items():
        if number and name != "lines_read":
            sys.stderr.write(f"{name.replace('_', ' ')}: {number:,}\n")
    sys.stderr.write(f"packed: {out}\n")


if __name__ == "__main__":
    sys.exit(main())
