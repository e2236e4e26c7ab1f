"""Trial of a tokenizer in a process that can be ended.

``tokenizers`` works inside calls that neither a signal nor another thread can end. A pattern such as
``(a+)+b`` takes longer than anybody waits, one with nested counts more memory than there is, and so do rules
that write far more than they read.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gemfit.core.atomic_file import write_atomic
from gemfit.core.process_group import run_with_children
from gemfit.data.tokenize.try_tokenizer import CHARACTERS, CPU_SECONDS, FAILED, STAGES, strings
from gemfit.errors import UserError
from gemfit.schemas.pack_job import cache_folder

SCRIPT = Path(__file__).with_name("try_tokenizer.py")
SECONDS = 120.0
"""Time limit of a trial on the clock."""
MAX_BYTES = 2**29
"""Of a ``tokenizer.json``: the largest known one has 33 MB, and is 20 times as large in memory."""
TRIAL = 2
"""Version of the trial, whose results are cached."""
LARGEST_PARSED = 2**22
"""Bytes of the largest file that is looked at before it is tried; a larger one has a long trial anyway."""
_LINES = {"type": "Split", "pattern": {"Regex": r"\n+"}, "behavior": "Isolated", "invert": False}
_WORDS = {"type": "Split", "pattern": {"String": "▁"}, "behavior": "MergedWithNext", "invert": False}
HARMLESS: dict[str, Any] = {
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_LINES, _WORDS]},
    "decoder": {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    },
}
"""Stages of tokenizers that gemfit trains."""
LARGEST_SHOWN, MOST_SHOWN = 2**26, 5
"""Bytes of a file whose strings a message shows, and how many."""
LONGEST_POST_PROCESSOR = 2000
"""Characters of JSON of one that can do no harm."""


def check_tokenizer_file(path: Path) -> None:
    """``UserError`` for a ``tokenizer.json`` that cannot be used within limits of time and memory.

    The trial, of files that gemfit has not trained itself, takes a second or two; a good result is cached.
    """
    if not path.is_file():
        raise UserError(f"{path}: is no regular file; copy the tokenizer again")
    check_size(path)
    content = path.read_bytes()
    if len(content) <= LARGEST_PARSED and _is_harmless(content):
        return
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    if _was_tried(digest):
        return
    if (fault := _try(path)) is not None:
        raise UserError(f"{path}: {fault}; change its rules{_shown(content)}, or use another tokenizer")
    _note(digest)


def check_size(path: Path) -> None:
    """``UserError`` for a file of a tokenizer that is too large to be one; none where there is no file."""
    if path.is_file() and (size := path.stat().st_size) > MAX_BYTES:
        raise UserError(f"{path}: has {size:,} bytes, and no tokenizer has more than {MAX_BYTES:,}")


def _is_harmless(content: bytes) -> bool:
    """Whether these are stages and a model like those of the tokenizers that gemfit trains."""
    fields = _fields(content)
    model = fields.get("model")
    return (
        isinstance(model, dict)
        and all(fields.get(stage) == known for stage, known in HARMLESS.items())
        and len(json.dumps(fields.get("post_processor"))) <= LONGEST_POST_PROCESSOR
        and (model.get("type"), model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"))
        == ("BPE", None, None)
    )


def _fields(content: bytes) -> dict[str, Any]:
    """The fields of a ``tokenizer.json``; none where one is repeated: the library might take another."""
    try:
        found = json.loads(content, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError):  # which the library will refuse
        return {}
    return found if isinstance(found, dict) else {}


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a repeated key")
    return fields


def _shown(content: bytes) -> str:
    """The strings in the stages of a tokenizer, shortened, in brackets."""
    fields = _fields(content) if len(content) <= LARGEST_SHOWN else {}
    known = {text for stage in HARMLESS.values() for text in strings(stage)}
    found = [text for stage in STAGES for text in strings(fields.get(stage)) if text not in known]
    texts = [repr(text[:60]) + ("..." if len(text) > 60 else "") for text in dict.fromkeys(found)]
    return f" ({', '.join(texts[:MOST_SHOWN])})" if texts else ""


def _try(path: Path) -> str | None:
    """What went wrong; ``None`` where every text was encoded."""
    too_slow = (
        f"a text of {CHARACTERS:,} characters takes it too long (limit of the trial: {CPU_SECONDS} seconds)"
    )
    try:
        done = run_with_children([sys.executable, "-P", str(SCRIPT), str(path)], seconds=SECONDS)
    except subprocess.TimeoutExpired:
        return too_slow
    if done.returncode == -signal.SIGXCPU:
        return too_slow
    if done.returncode < 0:
        return f"reading it ends the process by {signal.Signals(-done.returncode).name}"
    if done.returncode != FAILED:  # damage is for the one who loads it to name
        return None
    return (done.stderr.strip().splitlines() or ["its patterns fail"])[-1]


def _was_tried(digest: str) -> bool:
    return _verdict_file(digest).is_file()


def _note(digest: str) -> None:
    path = _verdict_file(digest)
    with suppress(OSError):  # without a cache it is tried again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "")


def _verdict_file(digest: str) -> Path:
    name = f"{digest}-{version('tokenizers')}.tried-{TRIAL}"
    return cache_folder() / "tokenizers" / name
