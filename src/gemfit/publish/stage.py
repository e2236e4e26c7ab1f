"""From a checkpoint to a folder that is ready to be sent: the model, its tokenizer and its card.

It costs an export: the weights are read once and written once. No network.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gemfit.checkpoint.integrity import digest_files
from gemfit.core.atomic_file import write_atomic
from gemfit.core.atomic_folder import staging
from gemfit.export.export import export
from gemfit.modelcard.card import write_card
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import FileDigest
from gemfit.upload.spool import Push, Spool, Staged

CARD = "README.md"


def stage(run: RunDir, push: Push) -> Staged:
    """Make the folder of ``push`` in the spool, whole or not at all.

    One of the same step is replaced. Raises ``UserError`` where the checkpoint is not there, or is damaged.
    """
    spool = Spool.of(run)
    folder = spool.folder(push.step)
    with staging(folder.absolute()) as partial:
        staged = Staged(push=push, files=tuple(write_files(run, push, spool.files(partial))))
        write_atomic(spool.manifest_file(partial), staged.to_json())
        if folder.exists():  # only now is there something better
            shutil.rmtree(folder)
    spool.fulfil(push.step)
    return staged


def write_files(run: RunDir, push: Push, out: Path) -> list[FileDigest]:
    """Everything that ``push`` sends, into ``out``, which must not exist; returns sizes and digests."""
    export(run, out, checkpoint=str(push.step), adapter=not push.merge_adapter, multimodal=push.multimodal)
    write_card(run, step=push.step, repo=push.repo, is_adapter=not push.merge_adapter, out=out / CARD)
    return digest_files(out, sorted(path for path in out.rglob("*") if path.is_file()))
