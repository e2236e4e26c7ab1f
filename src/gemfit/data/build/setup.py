"""Setup before workers are forked: tokenizer, verified encoder, render context, heap."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np

from gemfit.data.build.encoder_tables import tables_path
from gemfit.data.build.malloc import trim_heap
from gemfit.data.build.reference_check import ReferenceChecker
from gemfit.data.compiled import initialize_numba, kernels_compile
from gemfit.data.jsonl.batch_parser import read_block
from gemfit.data.jsonl.conversation import Conversation
from gemfit.data.jsonl.inputs import all_lines
from gemfit.data.jsonl.line_parser import Rejection, read_line
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.data.jsonl.message_batch import Messages
from gemfit.data.packing.split_turns import check_seq_len
from gemfit.data.render.render_context import RenderContext, make_render_context
from gemfit.data.tokenize import Encoder, Engine, reference_encoder
from gemfit.data.tokenize.file_tokenizer import FileTokenizer, backend_json, open_tokenizer
from gemfit.data.tokenize.select import even_sample, select_encoder
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.data.tokenize.verification import VerificationSample, sample_encoded
from gemfit.errors import UserError
from gemfit.schemas.pack_job import PackJob

SAMPLE_LINES, SAMPLE_BYTES = 2_000, 2**20
"""The part of the input that engines are verified on, at most."""
WORTH_COMPILING_BYTES = 32 * 2**20
"""Compiling the BPE takes as long as ``tokenizers`` takes for so much text on two cores."""
Say = Callable[[str], None]


def prepare_tokenizer(job: PackJob) -> Any:
    """The tokenizer that the job names, or one trained on its conversations."""
    if job.tokenizer is not None:
        return open_tokenizer(job.tokenizer, job.tokenizer_revision)
    assert job.scratch_vocab_size is not None, "a job names a tokenizer or trains one"
    return train_tokenizer(_texts(job), job.scratch_vocab_size)


def prepare_render_context(
    job: PackJob, tokenizer: Any, say: Say, engine: Engine = "auto"
) -> tuple[RenderContext, ReferenceChecker | None]:
    """The render context with the fastest verified encoder, and the process that keeps verifying it.

    The word cache is verified on the beginning of the input before its tables are cached. Where cached
    tables are found, the process begins with this verification, and goes on with samples of the input.
    """
    sample = sample_of(job)
    encoder, is_cached = _encoder(job, tokenizer, sample, say, engine)
    checker = None if encoder.name == "tokenizers" else ReferenceChecker(lambda: _reference(tokenizer))
    with ExitStack() as stack:
        if checker is not None:
            stack.callback(checker.close)
            if is_cached:
                checker.offer(_encode_all(encoder, even_sample(sample)))
        context = make_render_context(tokenizer, job.data, encoder)
        renderer = context.renderer
        check_seq_len(renderer.control[renderer.segments.begin], job.data.seq_len)
        stack.pop_all()
        return context, checker


def _encoder(
    job: PackJob, tokenizer: Any, sample: Messages, say: Say, engine: Engine
) -> tuple[Encoder, bool]:
    """The encoder, and whether its tables came from the cache, not yet verified on this input."""
    path = tables_path(tokenizer)
    if engine == "auto" and is_small(job) and not (kernels_compile() and path.exists()):
        engine = "tokenizers"
    if engine != "auto":
        return select_encoder(backend_json(tokenizer), sample, say, engine=engine, tokenizer=tokenizer), False
    # Only here: small inputs need none of the compiled BPE.
    from gemfit.data.tokenize.bpe.cache_file import load_tables, save_tables  # noqa: PLC0415
    from gemfit.data.tokenize.bpe.word_cache import WordCache  # noqa: PLC0415

    if (cached := load_tables(path)) is not None:
        return cached, True
    encoder = select_encoder(backend_json(tokenizer), sample, say, engine=engine, tokenizer=tokenizer)
    if isinstance(encoder, WordCache):
        save_tables(encoder, path)
    return encoder, False


def is_small(job: PackJob) -> bool:
    """Whether compiling the BPE would take longer than encoding the input with ``tokenizers``."""
    return not job.streams and job.text_bytes < WORTH_COMPILING_BYTES


def _reference(tokenizer: Any) -> Encoder:
    """The reference encoder, loaded in the reference process."""
    encoder = reference_encoder(tokenizer)
    trim_heap()
    return encoder


def _encode_all(encoder: Encoder, texts: list[bytes]) -> VerificationSample:
    """All of these texts and their ids, as one verification sample."""
    text, ends = b"".join(texts), np.cumsum([len(text) for text in texts], dtype=np.int64)
    return sample_encoded(encoder, text, ends, *encoder.encode(text, ends), one_in=1)


def freeze_heap() -> None:
    """Collect garbage, exempt the rest from collection (``gc.freeze``), and trim: workers share the heap."""
    initialize_numba()
    gc.collect()
    gc.freeze()
    trim_heap()


def free_encoder(tokenizer: Any) -> None:
    """Free the tokenizer's backend, which only rendering needs: it is larger than all that follows."""
    if isinstance(tokenizer, FileTokenizer):
        tokenizer.free()
    # The encoder was freed with its last reference, without a garbage collection.
    trim_heap()


def sample_of(job: PackJob) -> Messages:
    """The beginning of the input, which engines are verified on."""
    lines: list[bytes] = []
    size = 0
    for _, line in islice(all_lines(job), SAMPLE_LINES):
        lines.append(line)
        size += len(line)
        if size >= SAMPLE_BYTES:
            break
    # Bad lines are reported when their block is read.
    return read_block(b"\n".join(lines), 1, "sample", Unchecked(), _ignore, LineSettings.of(job.data))[0]


def _texts(job: PackJob) -> Any:
    """Every content of every valid conversation; bad lines stop it only if they stop the build."""
    settings = LineSettings.of(job.data)
    for place, line in all_lines(job, with_validation=False):
        if line.strip():
            try:
                conversation = read_line(line.rstrip(b"\n"), place, settings)
            except UserError:
                if job.data.on_error == "fail":
                    raise
                continue
            yield from (text for _, text in conversation.messages)


class Unchecked:
    """A check that every conversation passes: only texts are needed."""

    def passes(self, messages: Messages) -> bool:
        return True

    def check(self, conversation: Conversation) -> None:
        pass


def _ignore(rejection: Rejection) -> None:
    pass
