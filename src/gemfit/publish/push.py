"""``python -m gemfit.publish.push RUN``: push a checkpoint to the Hub, or all uploads pending in spools.

Exit status 0 when everything is sent, 75 when something waits in the spool, 2 for what a person can mend.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemfit.checkpoint.resolve_checkpoint import LATEST, resolve_trained
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe, repo_id
from gemfit.upload.spool import Delivery, Push, Sent, Spool, wanted_push

LOCK_SECONDS = 30.0

Told = tuple[dict[str, Any], list[str]]
"""What was done, for a machine and for a person."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, push, say what was sent and what is not."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Its own lines would name addresses that carry signatures, and the loop around it tells the trouble.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # Before transformers and huggingface_hub are imported: they would talk, and draw bars into a file.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        runs = [RunDir.open(root) for root in options.runs]
        if options.dry_run:
            return _list(runs[0], _push(runs[0], options), options.json)
        done = [_spooled(run) if options.spooled else _one(run, options) for run in runs]
    except UserError as error:
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        return ExitCode.USER_ERROR
    if options.json:
        sys.stdout.write(json.dumps([found for found, _ in done], indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for _, lines in done for line in lines))
    refused = [line for found, _ in done for line in found["refused"]]
    sys.stderr.write("".join(f"error: {line}\n" for line in refused))
    if refused:
        return ExitCode.USER_ERROR
    return ExitCode.STOPPED if any(found["waiting"] for found, _ in done) else ExitCode.DONE


def _one(run: RunDir, options: argparse.Namespace) -> Told:
    """Push one checkpoint, and whatever waits already; a mistake leaves no trace in the spool."""
    from huggingface_hub import constants  # noqa: PLC0415  (after the environment is set)

    push, spool = _push(run, options), Spool.of(run)
    before, waiting = spool.sent_as(push, constants.ENDPOINT), spool.waiting(push.step)
    if waiting is not None and waiting != push:
        raise UserError(
            f"{run.root}: step {push.step} waits to be sent to {waiting.repo} ({waiting.message!r}) already; "
            f"send it with --spooled, or remove {spool.folder(push.step)}"
        )
    if before and not options.again and waiting is None:
        line = f"step {push.step}: was sent to {push.repo} before ({before.url}); --again sends it once more"
        return as_json(run, Delivery(reason="sent before")), [line]
    _greet(push)
    spool.want(push)
    try:
        told = _deliver(run)
    except UserError:
        if waiting is None:
            spool.drop(push.step)
        raise
    if waiting is None and told[0]["refused"] and push.step in told[0]["waiting"]:
        spool.drop(push.step)
    return told


def _spooled(run: RunDir) -> Told:
    """Send whatever waits."""
    if not run.spooled_steps:
        return as_json(run, Delivery()), [f"{run.root}: nothing waits"]
    return _deliver(run)


def _deliver(run: RunDir) -> Told:
    from gemfit.publish.retry import Patience  # noqa: PLC0415  (after the environment is set)
    from gemfit.publish.send import deliver_spool  # noqa: PLC0415  (imports torch)

    delivery = deliver_spool(run, Patience(), lock_seconds=LOCK_SECONDS)
    return as_json(run, delivery), [*map(_sent_line, delivery.sent), *_waiting_lines(run, delivery)]


def as_json(run: RunDir, delivery: Delivery) -> dict[str, Any]:
    """What became of a spool, for machines."""
    sent = [
        {"step": one.push.step, "repo": one.push.repo}
        | one.model_dump(include={"commit", "url", "bytes", "seconds"})
        for one in delivery.sent
    ]
    rest = {"waiting": delivery.waiting, "reason": delivery.reason, "refused": delivery.refused}
    return {"run": str(run.root), "sent": sent, **rest}


def _greet(push: Push) -> None:
    """A token that is missing or wrong, told before the minutes that an export may take."""
    from huggingface_hub import is_offline_mode  # noqa: PLC0415  (after the environment is set)

    from gemfit.publish.client import open_hub, refused  # noqa: PLC0415  (the same)
    from gemfit.publish.retry import is_temporary  # noqa: PLC0415  (the same)

    if is_offline_mode():
        return
    hub = open_hub()
    try:
        hub.api.whoami(hub.token)
    except Exception as error:
        if not is_temporary(error):
            refused(hub, push, error)


def _push(run: RunDir, options: argparse.Namespace) -> Push:
    """What the options say, and the recipe where they say nothing."""
    recipe = run.plan().recipe.hub
    repo = options.repo or recipe.repo
    if repo is None:
        raise UserError(f"{run.root}: its recipe names no hub.repo; give --repo NAMESPACE/NAME")
    try:
        repo_id(repo)
    except ValueError as error:
        raise UserError(f"--repo {error}") from None
    _, checkpoint = resolve_trained(run, options.checkpoint)
    push = wanted_push(HubRecipe(**recipe.model_dump() | {"repo": repo, "push": "end"}), checkpoint.step)
    changed: dict[str, Any] = {"message": options.message} if options.message else {}
    changed |= {"private": False} if options.public else {}
    changed |= {"merge_adapter": False} if options.adapter else {}
    changed |= {"multimodal": True} if options.multimodal else {}
    return Push(**push.model_dump() | changed)


def _list(run: RunDir, push: Push, as_json: bool) -> int:
    """Name every file that would be sent; they are made for it, and removed."""
    from gemfit.publish.stage import write_files  # noqa: PLC0415  (imports torch)

    run.spool.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run.spool, prefix=".dry-run-") as folder:
        files = write_files(run, push, Path(folder) / "files")
    if as_json:
        rows = [{"path": file.path, "bytes": file.bytes} for file in files]
        sys.stdout.write(json.dumps({"push": push.model_dump(), "files": rows}, indent=2) + "\n")
        return ExitCode.DONE
    kind = "private" if push.private else "public"
    total = sum(file.bytes for file in files)
    sys.stdout.write(f"step {push.step} would go to {push.repo}, branch {push.branch}; if new, {kind}\n")
    sys.stdout.write("".join(f"{file.bytes:>16,}  {file.path}\n" for file in files))
    sys.stdout.write(f"{total:>16,}  in all; nothing was sent\n")
    return ExitCode.DONE


def _sent_line(sent: Sent) -> str:
    size = f"{sent.bytes / 1e6:,.1f} MB in {sent.seconds:.1f} s"
    return f"step {sent.push.step}: sent to {sent.push.repo}, {size}: {sent.url}"


def _waiting_lines(run: RunDir, delivery: Delivery) -> list[str]:
    if not delivery.waiting or delivery.refused:
        return []
    steps = ", ".join(map(str, delivery.waiting))
    return [
        f"{run.root}: not sent: step {steps} ({delivery.reason}); later: gemfit push --spooled {run.root}"
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gemfit.publish.push", description="Push to the Hub.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--spooled", action="store_true", help="send what waits, and nothing else")
    parser.add_argument("--repo", help="namespace/name; the recipe's when left out")
    parser.add_argument("--checkpoint", default=LATEST, help="a step, latest or best")
    parser.add_argument("--public", action="store_true", help="if the repository is made, for all to see")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--adapter", action="store_true", help="send a LoRA alone, not merged")
    parser.add_argument("--multimodal", action="store_true", help="beside the base model's other parts")
    parser.add_argument("--again", action="store_true", help="send although it was sent before")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    parser.add_argument("--json", action="store_true", help="say what was done as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
