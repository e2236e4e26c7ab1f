"""``python -m gemfit.publish.push RUN``: push a checkpoint to the Hub, or all uploads pending in spools.

Exit status 0 when everything is sent, 75 when a push waits in the spool, 2 for errors in the input.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemfit.checkpoint.resolve_checkpoint import LATEST, resolve_trained
from gemfit.checkpoint.store import Found
from gemfit.control_characters import escape_control_characters
from gemfit.core.atomic_folder import partial_folder
from gemfit.core.module_main import run_main
from gemfit.core.one_writer import one_writer
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe, repo_id
from gemfit.upload.spool import Push, SentPush, Spool, SpoolResult, push_of_step

logger = logging.getLogger(__name__)

LOCK_SECONDS = 30.0

Report = tuple[dict[str, Any], list[str]]
"""Result of a push, as JSON and as lines of text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Push, and print what was sent and what was not."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Its own lines contain signed URLs; `retried` logs the errors.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # Before transformers and huggingface_hub are imported, which log and draw progress bars.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return run_main(lambda: _push(options))


def _push(options: argparse.Namespace) -> int:
    runs = [RunDir.open(root) for root in options.runs]
    if options.dry_run:
        return _list(runs[0], options)
    done = [_push_spooled(run) if options.spooled else _push_one(run, options) for run in runs]
    if options.json:
        sys.stdout.write(json.dumps([found for found, _ in done], indent=2) + "\n")
    else:
        lines = "".join(f"{line}\n" for _, lines in done for line in lines)
        sys.stdout.write(escape_control_characters(lines))  # with the URL that the server gave
    refused = [line for found, _ in done for line in found["refused"]]
    sys.stderr.write("".join(f"error: {line}\n" for line in refused))
    if refused:
        return ExitCode.USER_ERROR
    return ExitCode.STOPPED if any(found["waiting"] for found, _ in done) else ExitCode.DONE


def _push_one(run: RunDir, options: argparse.Namespace) -> Report:
    """Push one checkpoint, and the pushes that wait already; after an error in the input it is not kept."""
    from huggingface_hub import constants  # noqa: PLC0415  (after the environment is set)

    (push, verified), spool = _requested_push(run, options), Spool.of(run)
    before, waiting = spool.last_sent(push, constants.ENDPOINT), spool.waiting(push.step)
    if waiting is not None and waiting != push:
        raise UserError(
            f"{run.root}: step {push.step} waits to be sent to {waiting.repo} ({waiting.message!r}) already; "
            f"send it with --spooled, or remove {spool.folder(push.step)}"
        )
    if before and not options.again and waiting is None:
        line = f"step {push.step}: was sent to {push.repo} before ({before.url}); --again sends it once more"
        return as_json(run, SpoolResult(reason="sent before")), [line]
    _check_token(push)
    spool.add(push)
    try:
        report = _send(run, verified)
    except UserError:
        if waiting is None:
            spool.remove(push.step)
        raise
    if waiting is None and report[0]["refused"] and push.step in report[0]["waiting"]:
        spool.remove(push.step)
    return report


def _push_spooled(run: RunDir) -> Report:
    """Send the pushes that wait in the spool."""
    if not run.spooled_steps:
        return as_json(run, SpoolResult()), [f"{run.root}: nothing waits"]
    return _send(run)


def _send(run: RunDir, verified: Found | None = None) -> Report:
    from gemfit.publish.send_spool import send_spool  # noqa: PLC0415  (imports torch)

    result = send_spool(run, lock_seconds=LOCK_SECONDS, verified=verified)
    return as_json(run, result), [*map(_sent_line, result.sent), *_waiting_lines(run, result)]


def as_json(run: RunDir, result: SpoolResult) -> dict[str, Any]:
    """The result of sending a spool, as JSON."""
    sent = [
        {"step": one.push.step, "repo": one.push.repo}
        | one.model_dump(include={"commit", "url", "bytes", "seconds"})
        for one in result.sent
    ]
    rest = {"waiting": result.waiting, "reason": result.reason, "refused": result.refused}
    return {"run": str(run.root), "sent": sent, **rest}


def _check_token(push: Push) -> None:
    """Check the token before the export, which may take minutes; a wrong one is a ``UserError``."""
    from huggingface_hub import is_offline_mode  # noqa: PLC0415  (after the environment is set)

    from gemfit.hub.retry import is_temporary  # noqa: PLC0415  (the same)
    from gemfit.publish.client import open_hub, raise_refusal  # noqa: PLC0415  (the same)

    if is_offline_mode():
        return
    hub = open_hub()
    try:
        hub.api.whoami(hub.token)
    except Exception as error:
        if not is_temporary(error):
            raise_refusal(hub, push, error)


def _requested_push(run: RunDir, options: argparse.Namespace) -> tuple[Push, Found | None]:
    """The push that the options ask for, completed from the recipe, and its checkpoint if it is verified."""
    recipe = run.plan().recipe.hub
    repo = options.repo or recipe.repo
    if repo is None:
        raise UserError(f"{run.root}: its recipe names no hub.repo; give --repo NAMESPACE/NAME")
    try:
        repo_id(repo)
    except ValueError as error:
        raise UserError(f"--repo {error}") from None
    # The export verifies every byte, except of `latest`: verified here, to skip damaged checkpoints.
    verify = options.checkpoint == LATEST
    found = resolve_trained(run, options.checkpoint, verify=verify)
    push = push_of_step(HubRecipe(**recipe.model_dump() | {"repo": repo, "push": "end"}), found[1].step)
    changed: dict[str, Any] = {"message": options.message} if options.message else {}
    changed |= {"private": False} if options.public else {}
    changed |= {"merge_adapter": False} if options.adapter else {}
    changed |= {"multimodal": True} if options.multimodal else {}
    return Push(**push.model_dump() | changed), found if verify else None


def _list(run: RunDir, options: argparse.Namespace) -> int:
    """List the files that would be sent, from an export that is removed again."""
    from gemfit.publish.export_push import write_files  # noqa: PLC0415  (imports torch)

    push, verified = _requested_push(run, options)
    out = (run.spool / "dry-run").absolute()
    with one_writer(out, logger.warning), partial_folder(out) as folder:
        files = write_files(run, push, folder / "files", verified)
    if options.json:
        rows = [{"path": file.path, "bytes": file.bytes} for file in files]
        sys.stdout.write(json.dumps({"push": push.model_dump(), "files": rows}, indent=2) + "\n")
        return ExitCode.DONE
    kind = "private" if push.private else "public"
    total = sum(file.bytes for file in files)
    sys.stdout.write(f"step {push.step} would go to {push.repo}, branch {push.branch}; if new, {kind}\n")
    sys.stdout.write("".join(f"{file.bytes:>16,}  {file.path}\n" for file in files))
    sys.stdout.write(f"{total:>16,}  in total; nothing was sent\n")
    return ExitCode.DONE


def _sent_line(sent: SentPush) -> str:
    size = f"{sent.bytes / 1e6:,.1f} MB in {sent.seconds:.1f} s"
    return f"step {sent.push.step}: sent to {sent.push.repo}, {size}: {sent.url}"


def _waiting_lines(run: RunDir, result: SpoolResult) -> list[str]:
    if not result.waiting or result.refused:
        return []
    steps = ", ".join(map(str, result.waiting))
    return [f"{run.root}: not sent: step {steps} ({result.reason}); later: gemfit push --spooled {run.root}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gemfit.publish.push", description="Push to the Hub.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--spooled", action="store_true", help="send only the pushes that wait in the spool")
    parser.add_argument("--repo", help="namespace/name; default: the recipe's hub.repo")
    parser.add_argument("--checkpoint", default=LATEST, help="a step, latest or best")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument("--message", help="commit message")
    parser.add_argument("--adapter", action="store_true", help="send the LoRA adapter alone, not merged")
    parser.add_argument("--multimodal", action="store_true", help="add the base model's vision tower")
    parser.add_argument("--again", action="store_true", help="send a step again")
    parser.add_argument("--dry-run", action="store_true", help="list the files, and send nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
