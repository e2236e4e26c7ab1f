"""Export and send the pushes in the spool of a run, in the order of their steps.

One process per run at a time. A push that fails stays in the spool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from huggingface_hub import is_offline_mode

from gemfit.checkpoint.integrity import digest_files
from gemfit.checkpoint.store import Found
from gemfit.core.foreign_files import refuse_foreign_files
from gemfit.errors import UserError
from gemfit.hub.retry import Unreachable, retried
from gemfit.publish.client import Hub, open_hub, raise_refusal
from gemfit.publish.export_push import export_push
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import missing_or_resized
from gemfit.upload.spool import ReadyPush, SentPush, Spool, SpoolResult

logger = logging.getLogger(__name__)


def send_spool(
    run: RunDir,
    *,
    probe: bool = False,
    lock_seconds: float = 0.0,
    verified: Found | None = None,
    on_exported: Callable[[], None] = lambda: None,
) -> SpoolResult:
    """Export the pending pushes, call ``on_exported``, and send all that are ready.

    ``verified`` is a checkpoint that the caller has found whole. ``probe`` gives up at once on an endpoint
    that does not answer. A missing token is a ``UserError``.
    """
    spool, result = Spool.of(run), SpoolResult()
    with spool.locked(wait_seconds=lock_seconds) as locked:
        if not locked:
            result.reason = "another process is pushing this run"
        else:
            _export_pending(run, spool, result, verified)
            on_exported()
            try:
                _send_ready(spool, result, probe)
            except Unreachable as reason:
                result.reason = str(reason)
    result.waiting = run.spooled_steps
    return result


def _export_pending(run: RunDir, spool: Spool, result: SpoolResult, verified: Found | None) -> None:
    for push in spool.pending():
        if not run.checkpoint(push.step).is_dir():
            logger.warning("step %d: not pushed, its checkpoint has been removed", push.step)
            spool.remove_pending(push.step)
            continue
        logger.info("step %d: exporting", push.step)
        try:
            export_push(run, push, verified)
        except UserError as error:
            result.refused.append(str(error))
            continue
        for older in spool.ready():
            if push.replaces(older.push) and older.push.step < push.step:
                logger.info("step %d: not sent, replaced by step %d", older.push.step, push.step)
                spool.remove(older.push.step)


def _send_ready(spool: Spool, result: SpoolResult, probe: bool) -> None:
    ready = spool.ready()
    if not ready:
        return
    if is_offline_mode():
        raise Unreachable("HF_HUB_OFFLINE is set")
    hub = open_hub()
    if probe and not hub.is_reachable(ready[0].push.repo):
        raise Unreachable(f"{hub.endpoint} does not answer")
    for one in ready:
        if spool.was_sent(one, hub.endpoint):
            spool.remove(one.push.step)
            continue
        try:
            result.sent.append(_send(hub, spool, one))
        except UserError as error:
            result.refused.append(str(error))


def _send(hub: Hub, spool: Spool, ready: ReadyPush) -> SentPush:
    push, folder = ready.push, spool.folder(ready.push.step)
    _refuse_damaged(spool, ready)
    names = [file.path for file in ready.files]
    start = time.monotonic()
    try:
        commit = retried(lambda: hub.commit(push, spool.files(folder), names))
    except Unreachable:
        raise
    except Exception as error:
        raise_refusal(hub, push, error)
    sent = SentPush(
        push=push,
        endpoint=hub.endpoint,
        commit=commit.oid,
        url=commit.commit_url,
        content=ready.digest,
        bytes=ready.bytes,
        seconds=time.monotonic() - start,
        time=time.time(),
    )
    spool.record(sent)
    logger.info("step %d: sent to %s (%s)", push.step, push.repo, sent.url)
    return sent


def _refuse_damaged(spool: Spool, ready: ReadyPush) -> None:
    files = spool.files(spool.folder(ready.push.step))
    refuse_foreign_files(files)
    problem = missing_or_resized(files, ready.files)
    if problem is None:
        found = digest_files(files, (files / file.path for file in ready.files))
        changed = (was.path for was, now in zip(ready.files, found, strict=True) if was != now)
        problem = next((f"{path} has changed since it was exported" for path in changed), None)
    if problem is not None:
        raise UserError(f"{files}: {problem}; remove {files.parent}, and push this step again")
