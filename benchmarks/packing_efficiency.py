"""How full are rows: gemfit's packing, padding and truncating compared.

    python benchmarks/packing_efficiency.py --data examples/conversations.jsonl --tokenizer scratch

All methods see the same rendered conversations in one process. `padded` splits long conversations at
the same positions, but gives each chunk a row of its own; `truncated` is what the reproduced model did: one
row per conversation, and what does not fit is lost.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gemfit.data.document import Document
from gemfit.data.jsonl.file_blocks import file_blocks
from gemfit.data.jsonl.inputs import block_text
from gemfit.data.jsonl.line_parser import read_line
from gemfit.data.packing.chunk_packing import Fragments, pack_chunks, pack_longest_chunks
from gemfit.data.packing.overlong import fit_document
from gemfit.data.render.renderer import make_renderer
from gemfit.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.find_inputs import find_files
from gemfit.schemas.source_file import digest_file


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one method makes of all conversations."""

    method: str
    rows: int
    real_share: float
    """Real tokens in all places of all rows."""
    packed_share: float
    """Tokens of the conversations that are in some row."""
    useful_share: float
    """Tokens of the conversations, each counted once, in all places: no padding, no repetition."""
    rows_per_gemfit_row: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="JSONL file, folder or glob")
    parser.add_argument("--tokenizer", required=True, help="folder or Hugging Face id, or `scratch`")
    parser.add_argument("--format", choices=["role_markers", "chat_template"], default="role_markers")
    parser.add_argument("--loss-on", choices=["all", "assistant"], default="all")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    try:
        documents = render(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report(measure(documents, arguments.seq_len), documents, arguments)
    return 0


def render(arguments: argparse.Namespace) -> list[Document]:
    """Every conversation of the data as a document."""
    conversations = [
        read_line(line, str(path))
        for path in find_files(arguments.data)
        for block in file_blocks(digest_file(path), 0, 0)
        for line in block_text(block, str(path)).split(b"\n")
        if line.strip()
    ]
    if arguments.tokenizer == "scratch":
        tokenizer = train_tokenizer((text for c in conversations for _, text in c.messages), 2048)
    else:
        tokenizer = load_tokenizer(arguments.tokenizer)
    renderer = make_renderer(tokenizer, arguments.format, loss_on=arguments.loss_on)
    for conversation in conversations:
        renderer.check(conversation)
    return renderer.render(conversations)


def measure(documents: list[Document], seq_len: int) -> list[Outcome]:
    """Our rows, then the same chunks each in a row of its own, then truncation."""
    total = sum(len(document.words) for document in documents)
    parts = [one for document in documents for one in fit_document(document, "split", seq_len).fragments]
    fragments = Fragments(
        np.array([len(fragment.words) for fragment in parts], np.int32),
        np.array([fragment.repeated for fragment in parts], np.int32),
        np.array([fragment.continues for fragment in parts], np.bool_),
    )
    packed = pack_chunks(fragments, seq_len)
    padded = pack_longest_chunks(fragments, seq_len)
    cut = np.minimum([len(document.words) for document in documents], seq_len)
    ours = int(packed.row.max()) + 1
    cases = [
        ("gemfit", ours, int(packed.lengths.sum()), int(fragments.context[packed.first].sum())),
        ("padded", len(padded.row), int(padded.lengths.sum()), int(fragments.context[padded.first].sum())),
        ("truncated", len(cut), int(cut.sum()), 0),
    ]
    return [
        Outcome(
            method=method,
            rows=rows,
            real_share=real / (rows * seq_len),
            packed_share=(real - repeated) / total,
            useful_share=(real - repeated) / (rows * seq_len),
            rows_per_gemfit_row=rows / ours,
        )
        for method, rows, real, repeated in cases
    ]


def report(outcomes: list[Outcome], documents: list[Document], arguments: argparse.Namespace) -> None:
    """Print the outcomes, as a table or as JSON."""
    lengths = [len(document.words) for document in documents]
    about = {
        "data": Path(arguments.data).name,
        "format": arguments.format,
        "seq_len": arguments.seq_len,
        "conversations": len(lengths),
        "tokens": sum(lengths),
        "longer_than_a_row": sum(length > arguments.seq_len for length in lengths),
    }
    if arguments.json:
        print(json.dumps(about | {"outcomes": [asdict(outcome) for outcome in outcomes]}, indent=2))
        return
    print(
        ", ".join(f"{name}: {value:,}" if isinstance(value, int) else value for name, value in about.items())
    )
    print(f"{'method':<12}{'rows':>10}{'real':>10}{'packed':>10}{'useful':>10}{'rows/ours':>11}")
    for outcome in outcomes:
        shares = (outcome.real_share, outcome.packed_share, outcome.useful_share)
        columns = "".join(f"{share:>10.2%}" for share in shares)
        print(f"{outcome.method:<12}{outcome.rows:>10,}{columns}{outcome.rows_per_gemfit_row:>11.2f}")


if __name__ == "__main__":
    sys.exit(main())
