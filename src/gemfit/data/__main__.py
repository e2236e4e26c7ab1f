"""Command line of the pack builder: ``python -m gemfit.data JOB.json --out FOLDER``.

Exit status 0, or 2 with ``error: …`` on stderr for user errors.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

from gemfit.core.garbage import importing
from gemfit.core.os_errors import explaining_os_errors
from gemfit.core.stop_signals import insistent_interrupts
from gemfit.data.compiled import all_compiled_marker, interpret_kernels
from gemfit.errors import ExitCode, UserError
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import PackJob

IS_MAIN = __name__ == "__main__"
"""Whether this is the main program: only then garbage collection and numba change for the whole process."""
TINY_BYTES = 2 * 2**20
"""Smaller inputs, if none is compressed, run kernels as Python, which takes less time than compiling them."""
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, build the pack or a part of it, and report the result."""
    arguments = _parser().parse_args(argv)
    # SIGTERM is handled as Ctrl-C, so that a cancelled build cleans up as well.
    try:
        with insistent_interrupts(), explaining_os_errors():
            _build(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted; the blocks that are done stay in the cache, and the next build goes on from them\n"
        )
        return INTERRUPTED
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gemfit.data", description="Build one pack of rows.")
    parser.add_argument("job", type=Path, help="PackJob as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    parser.add_argument("--workers", type=_positive, help="processes; all cores by default")
    parser.add_argument("--engine", choices=("auto", "tokenizers", "gigatoken"), default="auto")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--shard", type=_shard, metavar="I/N", help="tokenize every Nth block only")
    only.add_argument(
        "--merge", action="store_true", help="build the pack from the blocks that shards have tokenized"
    )
    return parser


def _build(arguments: argparse.Namespace) -> None:
    job = PackJob.read(arguments.job)
    # Before transformers is imported: it would warn about missing frameworks and forks.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if IS_MAIN and is_tiny(job) and not all_compiled_marker().exists():
        interpret_kernels()
    with importing() if IS_MAIN else nullcontext():
        # A broken job is refused without the wait for these.
        from gemfit.core.available_cores import available_cores  # noqa: PLC0415
        from gemfit.data.build.map_blocks import Shard  # noqa: PLC0415
        from gemfit.data.build.pipeline import BuildOptions, PackBuilder  # noqa: PLC0415

    out = arguments.out.absolute()
    options = BuildOptions(num_workers=arguments.workers or available_cores(), engine=arguments.engine)
    builder = PackBuilder(job, options, _print_line)
    if arguments.shard:
        builder.build_shard(Shard(*arguments.shard))
    elif arguments.merge:
        _report(builder.merge(out), out)
    else:
        _report(builder.build(out), out)


def is_tiny(job: PackJob) -> bool:
    """Whether running kernels as Python takes less time than compiling them."""
    size_is_known = not job.streams and not any(file.is_compressed for file in job.files)
    return size_is_known and job.input_bytes < TINY_BYTES


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: write a number from 1 on")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, with i from 1 to n")
    return int(match[1]), int(match[2])


def _print_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _report(manifest: PackManifest, out: Path) -> None:
    from gemfit.data.build.validation_overlaps import overlap_lines  # noqa: PLC0415  as above

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
    for line in overlap_lines(out):
        sys.stderr.write(f"{line}\n")
    if manifest.forms:
        forms = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in manifest.forms.items())
        sys.stderr.write(f"read as messages: {forms}\n")
    sys.stderr.write(f"packed: {out}\n")


if __name__ == "__main__":
    sys.exit(main())
