"""Build a pack: conversations in, a folder of packed rows out, whole or not at all.

Two passes. The first reads, renders, splits and spools to disk; the second gathers rows from the
spool. Memory is bounded by one chunk of conversations, one batch of rows, and about 150 bytes a
conversation (its digest, the lengths of its pieces, their rows). Disk: the spool takes 4 bytes a
token for a while, the result 8 bytes a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import gemfit
from gemfit.data.conversation import Conversation
from gemfit.data.fit import Fitter
from gemfit.data.progress import progress
from gemfit.data.read import Tally
from gemfit.data.rejected import RejectedFile
from gemfit.data.render import Renderer, make_renderer
from gemfit.data.runs import fit_runs
from gemfit.data.shards import write_split
from gemfit.data.source import check_unchanged, read_source
from gemfit.data.split import check_room
from gemfit.data.spool import Spool
from gemfit.data.staging import staging
from gemfit.data.store import MANIFEST, file_digest, read_manifest
from gemfit.data.tokenizer import load_tokenizer, pad_id, save_tokenizer, tokenizer_digest, train_tokenizer
from gemfit.errors import UserError
from gemfit.manifest import Losses, PackManifest, SplitCounts
from gemfit.packing import PackJob
from gemfit.rundir import write_atomic

SPLITS = ("train", "validation")
CHUNK_CHARACTERS = 2**18
"""Text that is tokenized in one parallel call."""


@dataclass(slots=True)
class _FirstPass:
    """What the first pass knows: counts, digests, and the two spools."""

    renderer: Renderer
    fitter: Fitter
    spools: dict[str, Spool]
    tally: Tally
    validation_share: float
    kept: int = 0
    duplicates: int = 0
    seen: set[bytes] = field(default_factory=set)

    def take(self, conversations: Iterable[Conversation]) -> None:
        """Render and spool everything that is valid and new."""
        for chunk in _chunks(self._new(conversations)):
            for conversation, document in zip(chunk, self.renderer.render(chunk), strict=True):
                spool = self.spools[_side(conversation, self.validation_share)]
                for atom in self.fitter.fit(document):
                    spool.append(atom, self.kept)
                self.kept += 1

    def _new(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        for conversation in conversations:
            digest = conversation.content_digest
            if digest in self.seen:
                self.duplicates += 1
                continue
            try:
                self.renderer.check(conversation)
            except UserError as error:
                self.tally.guard(error, conversation.place)
                continue
            self.seen.add(digest)
            yield conversation

    def losses(self, repeated_tokens: int) -> Losses:
        counts = asdict(self.fitter)
        return Losses(
            lines_read=self.tally.lines,
            blank_lines=self.tally.blank,
            rejected_lines=self.tally.rejected,
            duplicate_conversations=self.duplicates,
            repeated_tokens=repeated_tokens,
            **{name: counts[name] for name in Losses.model_fields if name in counts},
        )


def build_pack(job: PackJob, out: Path) -> PackManifest:
    """Make the pack of ``job`` in the folder ``out``; a pack of the same fingerprint there is kept.

    Everything that a person can get wrong is a ``UserError``, and leaves nothing on disk.
    """
    if out.exists() and any(out.iterdir()):
        return _existing(job, out)
    check_unchanged(job.files)
    with staging(out) as partial:
        tokenizer = _tokenizer(job)
        losses, splits = _write_rows(job, tokenizer, partial)
        save_tokenizer(tokenizer, partial / "tokenizer")
        manifest = _manifest(job, tokenizer, partial, splits, losses)
        # The manifest goes last: a reader that finds it may trust every other file.
        write_atomic(partial / MANIFEST, manifest.to_json())
    return manifest


def _existing(job: PackJob, out: Path) -> PackManifest:
    if (out / MANIFEST).is_file() and (manifest := read_manifest(out)).fingerprint == job.fingerprint:
        return manifest
    raise UserError(f"{out}: is already there and is not this pack; remove it, or choose another --out")


def _tokenizer(job: PackJob) -> Any:
    if job.tokenizer is not None:
        return load_tokenizer(job.tokenizer, job.tokenizer_revision)
    assert job.scratch_vocab_size is not None, "a job names a tokenizer or trains one"
    # The first pass counts and lists bad lines; here they are only passed over.
    tally = Tally(reject=(lambda _: None) if job.data.on_error == "skip" else None)
    texts = (text for conversation in read_source(job, tally) for _, text in conversation.messages)
    return train_tokenizer(texts, job.scratch_vocab_size)


def _write_rows(job: PackJob, tokenizer: Any, partial: Path) -> tuple[Losses, dict[str, SplitCounts]]:
    data = job.data
    renderer = make_renderer(tokenizer, data.format, data.eos, data.loss_on)
    check_room(renderer.control[renderer.grammar.begin], data.seq_len)
    with ExitStack() as stack:
        rejected = stack.enter_context(RejectedFile(partial / "rejected.jsonl"))
        tally = Tally(reject=rejected.add if data.on_error == "skip" else None)
        paths = {split: partial / f"{split}.spool" for split in SPLITS}
        spools = {split: stack.enter_context(Spool(path)) for split, path in paths.items()}
        first = _FirstPass(
            renderer, Fitter(data.overlong, data.seq_len), spools, tally, data.validation_share
        )
        first.take(_with_progress(job, tally))
        _check_enough(job, first)
        packed = {
            split: _pack_split(job, partial / split, spool, pad_id(tokenizer))
            for split, spool in spools.items()
        }
        for path in paths.values():
            path.unlink()
    repeated = sum(repeated for _, repeated in packed.values())
    return first.losses(repeated), {split: counts for split, (counts, _) in packed.items()}


def _pack_split(job: PackJob, folder: Path, spool: Spool, pad: int) -> tuple[SplitCounts, int]:
    """Write one split; its counts, and how many of its tokens are repeated context."""
    atoms, seq_len = spool.finish(), job.data.seq_len
    runs = fit_runs(atoms, seq_len)
    counts = write_split(folder, spool, runs, seq_len=seq_len, pad=pad, fingerprint=job.fingerprint)
    return counts, int(atoms.context[runs.first].sum(dtype=np.int64))


def _with_progress(job: PackJob, tally: Tally) -> Iterator[Conversation]:
    total = sum(file.bytes for file in job.files) or None
    with progress("packing", total, "bytes" if total else "lines") as shown:
        for conversation in read_source(job, tally):
            yield conversation
            shown.at(tally.bytes if total else tally.lines)


def _check_enough(job: PackJob, first: _FirstPass) -> None:
    source, tally = job.data.source, first.tally
    if not first.kept:
        raise UserError(
            f"{source}: holds no valid conversation: of {tally.lines} lines {tally.blank} are blank and "
            f"{tally.rejected} were rejected"
        )
    if not len(first.spools["train"]):
        raise UserError(
            f"{source}: no conversation is left to train on: of {first.kept}, "
            f"{first.fitter.dropped_conversations} were longer than data.seq_len and dropped, the rest is "
            f"held out (data.validation_share: {job.data.validation_share}); give more data, or change these"
        )


def _side(conversation: Conversation, validation_share: float) -> str:
    """Train or validation, by content: copies and near copies fall on one side."""
    draw = int.from_bytes(conversation.likeness_digest[:8], "big") / 2**64
    return "validation" if draw < validation_share else "train"


def _chunks(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    chunk: list[Conversation] = []
    characters = 0
    for conversation in conversations:
        chunk.append(conversation)
        characters += sum(len(text) for _, text in conversation.messages)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _manifest(
    job: PackJob, tokenizer: Any, folder: Path, splits: dict[str, SplitCounts], losses: Losses
) -> PackManifest:
    data = job.data
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return PackManifest(
        fingerprint=job.fingerprint,
        tokenizer_digest=tokenizer_digest(tokenizer),
        format=data.format,
        eos=data.eos,
        loss_on=data.loss_on,
        seq_len=data.seq_len,
        overlong=data.overlong,
        pad_id=pad_id(tokenizer),
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        splits=splits,
        losses=losses,
        files=tuple(file_digest(folder, path) for path in files),
        versions={
            "gemfit": gemfit.__version__,
            **{name: version(name) for name in ("datasets", "numpy", "tokenizers", "transformers")},
        },
    )
