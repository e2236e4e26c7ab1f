"""Export of a push: model, tokenizer and card in a folder of the spool, ready to be sent.

Reads and writes the weights once. No network.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gemfit.checkpoint.integrity import digest_files
from gemfit.checkpoint.store import Found
from gemfit.core.atomic_file import write_atomic
from gemfit.core.atomic_folder import staging
from gemfit.export.export import export
from gemfit.modelcard.card import write_card
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import FileDigest
from gemfit.upload.spool import Push, ReadyPush, Spool

CARD = "README.md"


def export_push(run: RunDir, push: Push, verified: Found | None = None) -> ReadyPush:
    """Write the folder of ``push`` in the spool, whole or not at all; an older one of the step is replaced.

    A missing or damaged checkpoint is a ``UserError``; a ``verified`` one is not verified again.
    """
    spool = Spool.of(run)
    folder = spool.folder(push.step)
    with staging(folder.absolute()) as partial:
        ready = ReadyPush(push=push, files=tuple(write_files(run, push, spool.files(partial), verified)))
        write_atomic(spool.manifest_file(partial), ready.to_json())
        if folder.exists():  # not before its replacement is complete
            shutil.rmtree(folder)
    spool.remove_pending(push.step)
    return ready


def write_files(run: RunDir, push: Push, out: Path, verified: Found | None = None) -> list[FileDigest]:
    """Write all files of ``push`` into ``out``, which must not exist; returns sizes and digests."""
    export(
        run,
        out,
        checkpoint=str(push.step),
        adapter=not push.merge_adapter,
        multimodal=push.multimodal,
        verified=verified,
    )
    write_card(run, step=push.step, repo=push.repo, is_adapter=not push.merge_adapter, out=out / CARD)
    return digest_files(out, sorted(path for path in out.rglob("*") if path.is_file()))
