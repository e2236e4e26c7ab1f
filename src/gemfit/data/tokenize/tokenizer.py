"""Tokenizers: loading, training for models from scratch, and digests of their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from gemfit.core.os_errors import raise_os_error
from gemfit.core.rust_panic import panics_as_errors
from gemfit.data.tokenize.tokenizer_trial import check_tokenizer_file
from gemfit.errors import UserError
from gemfit.schemas.base import digest_json

_LONG_WORD = re.compile(r"([^ \n]{1000})(?=[^ \n])")
TRAINING_CHARACTERS = 16_000_000
"""Training uses this much text, which bounds its memory."""

TOKENIZER_FILE = "tokenizer.json"
QUIET: dict[str, Any] = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
    "_raise_exceptions_for_gated_repo": False,
}
"""Options of transformers' ``cached_file`` that return ``None`` for what the call after it explains."""
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set ns = namespace(lead='', turn=0) -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set ns.lead = message.content ~ '\\n\\n' -%}
{%- else -%}
{%- if (ns.turn % 2 == 0) != (message.role == 'user') -%}
{{- raise_exception('user and assistant messages have to take turns, and the user begins') -}}
{%- endif -%}
{{- '<start_of_turn>' ~ ('model' if message.role == 'assistant' else 'user') ~ '\\n' -}}
{{- ns.lead if ns.turn == 0 else '' -}}
{{- message.content | trim -}}
{{- '<end_of_turn>\\n' -}}
{%- set ns.turn = ns.turn + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""


def load_tokenizer(name: str, revision: str = "main") -> Any:
    """The fast tokenizer of a Hugging Face id or a local folder."""
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    # It takes two seconds or more to import; `open_tokenizer` can do without.
    from transformers import AutoTokenizer  # noqa: PLC0415
    from transformers.utils import cached_file  # noqa: PLC0415

    try:
        if (file := cached_file(source, TOKENIZER_FILE, revision=revision, **QUIET)) is not None:
            check_tokenizer_file(Path(file))
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        if isinstance(tokenizer.chat_template, dict):  # several, of which one is the default
            tokenizer.chat_template = tokenizer.get_chat_template()
    except UserError:
        raise
    except (
        Exception
    ) as error:  # damaged files: the Rust side raises a bare Exception, transformers many kinds
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(
            "."
        )
        raise UserError(
            f"model.tokenizer: no tokenizer can be loaded from {name!r} at {revision!r}: {first}; "
            "give a Hugging Face id that you may read, or a folder with tokenizer.json"
        ) from None
    if not tokenizer.is_fast:
        raise UserError(f"model.tokenizer: {name!r} has no fast implementation (tokenizer.json); convert it")
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.tokenizer: {name!r} has no EOS token; set eos_token in tokenizer_config.json")
    return tokenizer


def pad_id(tokenizer: Any) -> int:
    """The id that fills rows; EOS where the tokenizer has no pad token. Padding is never a label."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's files; a full disk, or one that fails, is an ``OSError``."""
    try:
        tokenizer.save_pretrained(str(folder))
    except Exception as error:  # the Rust side raises nothing narrower
        raise_os_error(error, folder)
        raise


def tokenizer_digest(tokenizer: Any) -> str:
    """BLAKE2b-128 of all that decides ids: vocabulary, rules, added tokens, template, special ids.

    Saving and loading keeps it. Truncation, padding and automatic BOS are left out: we use none.
    """
    # The model comes last and is by far the largest: it is digested as text, which need not be parsed.
    head, mark, model = tokenizer.backend_tokenizer.to_str().partition(',"model":')
    backend = json.loads(head + "}")
    assert mark, "the library writes the model last"
    for unused in ("version", "truncation", "padding", "post_processor"):
        backend.pop(unused, None)
    backend["added_tokens"] = sorted(backend["added_tokens"], key=lambda token: token["id"])
    backend["model"] = hashlib.blake2b(model.encode(), digest_size=16).hexdigest()
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    return digest_json({"backend": backend, "template": tokenizer.chat_template, "special": special})


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A BPE tokenizer like Gemma's: byte fallback, `▁` for the space, no prefix space.

    Deterministic. The vocabulary has at most ``vocab_size`` entries: six special ones, 256 bytes,
    characters, merges. Only the first ``TRAINING_CHARACTERS`` characters are used.
    """
    sample = list(_first_characters(texts))
    tokens, merges = _learn(sample, vocab_size - len(SPECIAL) - 256)
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *tokens]
    vocab = {name: index for index, name in enumerate(dict.fromkeys(names))}
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = _words()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415  as above

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _learn(sample: list[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Characters and merges, ``size`` in all; rare characters use byte fallback."""
    counts = Counter[str]()
    for text in sample:
        counts.update(text.replace(" ", "▁"))
    # A third of the vocabulary at most: thousands of characters would leave none for merges.
    kept = sorted(sorted(counts), key=lambda char: -counts[char])[: max(1, size // 3)]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = _words()
    # Characters that are not kept become spaces, which are not learned from twice.
    rare = {ord(char): " " for char in counts.keys() - set(kept)}
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False)
    learner.train_from_iterator((short_words(text.translate(rare)) for text in sample), trainer)
    model = json.loads(learner.to_str())["model"]
    by_id = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return by_id, [(left, right) for left, right in model["merges"]]


def short_words(text: str) -> str:
    """The text with spaces in words of thousands of characters: learning merges is quadratic in a word."""
    return _LONG_WORD.sub(r"\1 ", text)


def _words() -> pre_tokenizers.PreTokenizer:
    """Merges stay inside a word with the space before it, and inside a run of line breaks."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+"), "isolated"),
            pre_tokenizers.Split("▁", "merged_with_next"),
        ]
    )


def _first_characters(texts: Iterable[str]) -> Iterator[str]:
    seen = 0
    for text in islice(texts, TRAINING_CHARACTERS):
        yield text[: TRAINING_CHARACTERS - seen]
        seen += len(text)
        if seen >= TRAINING_CHARACTERS:
            return
