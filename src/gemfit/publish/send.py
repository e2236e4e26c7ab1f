"""Stage and send what waits in the spool of a run, in the order of its steps.

One process at a time does so for a run. Whatever goes wrong, what is not sent stays in the spool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from huggingface_hub import is_offline_mode

from gemfit.checkpoint.integrity import digest_files
from gemfit.errors import UserError
from gemfit.publish.client import Hub, open_hub, refused
from gemfit.publish.retry import Patience, Unreachable, retried
from gemfit.publish.stage import stage
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import missing_or_resized
from gemfit.upload.spool import Delivery, Sent, Spool, Staged

logger = logging.getLogger(__name__)


def deliver_spool(
    run: RunDir,
    patience: Patience,
    *,
    probe: bool = False,
    lock_seconds: float = 0.0,
    staged: Callable[[], None] = lambda: None,
) -> Delivery:
    """Stage what is wanted, call ``staged``, and send all that is ready.

    ``probe`` gives up at once on an endpoint that does not answer soon. ``UserError`` without a token.
    """
    spool, delivery = Spool.of(run), Delivery()
    with spool.hold(patience_seconds=lock_seconds) as alone:
        if not alone:
            delivery.reason = "another process is pushing this run"
        else:
            _stage_wanted(run, spool, delivery)
            staged()
            try:
                _send_staged(spool, delivery, patience, probe)
            except Unreachable as reason:
                delivery.reason = str(reason)
    delivery.waiting = run.spooled_steps
    return delivery


def _stage_wanted(run: RunDir, spool: Spool, delivery: Delivery) -> None:
    for push in spool.wanted():
        if not run.checkpoint(push.step).is_dir():
            logger.warning("step %d: not staged, its checkpoint is gone", push.step)
            spool.fulfil(push.step)
            continue
        logger.info("step %d: staging", push.step)
        try:
            stage(run, push)
        except UserError as error:
            delivery.refused.append(str(error))
            continue
        for older in spool.staged():
            if push.replaces(older.push) and older.push.step < push.step:
                logger.info("step %d: not sent, step %d takes its place", older.push.step, push.step)
                spool.drop(older.push.step)


def _send_staged(spool: Spool, delivery: Delivery, patience: Patience, probe: bool) -> None:
    waiting = spool.staged()
    if not waiting:
        return
    if is_offline_mode():
        raise Unreachable("HF_HUB_OFFLINE is set")
    hub = open_hub()
    if probe and not hub.answers(waiting[0].push.repo):
        raise Unreachable(f"{hub.endpoint} does not answer")
    for staged in waiting:
        if spool.was_sent(staged, hub.endpoint):
            spool.drop(staged.push.step)
            continue
        try:
            delivery.sent.append(_send(hub, spool, staged, patience))
        except UserError as error:
            delivery.refused.append(str(error))


def _send(hub: Hub, spool: Spool, staged: Staged, patience: Patience) -> Sent:
    push, folder = staged.push, spool.folder(staged.push.step)
    _refuse_damaged(spool, staged)
    names = [file.path for file in staged.files]
    began = time.monotonic()

    def deliver() -> tuple[str, str]:
        done = hub.deliver(push, spool.files(folder), names)
        return done.oid, done.commit_url

    try:
        commit, url = retried(deliver, patience, say=logger.warning)
    except Unreachable:
        raise
    except Exception as error:
        refused(hub, push, error)
    sent = Sent(
        push=push,
        endpoint=hub.endpoint,
        commit=commit,
        url=url,
        content=staged.digest,
        bytes=staged.bytes,
        seconds=time.monotonic() - began,
        time=time.time(),
    )
    spool.record(sent)
    logger.info("step %d: sent to %s (%s)", push.step, push.repo, url)
    return sent


def _refuse_damaged(spool: Spool, staged: Staged) -> None:
    files = spool.files(spool.folder(staged.push.step))
    problem = missing_or_resized(files, staged.files)
    if problem is None:
        found = digest_files(files, (files / file.path for file in staged.files))
        changed = (was.path for was, now in zip(staged.files, found, strict=True) if was != now)
        problem = next((f"{path} has changed since it was staged" for path in changed), None)
    if problem is not None:
        raise UserError(f"{files}: {problem}; remove {files.parent}, and push this step again")
