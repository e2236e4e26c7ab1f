"""Conversations that are skipped: their labels are gone, and nothing else has changed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from gemfit.data.document import IGNORED
from gemfit.data.inspect.skip import main
from gemfit.data.inspect.skipped_documents import RowsWithSkips, open_training_rows
from gemfit.data.pack.reader import PackedRows
from gemfit.errors import UserError
from gemfit.schemas.pack_job import make_pack_job
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack

LINES, LONG = 30, 7


def make_pack(folder: Path) -> Path:
    """A pack of short conversations and a long one, which takes several rows."""
    folder.mkdir()
    lines = []
    for number in range(LINES):
        reply = {"role": "assistant", "content": "So it is. " * (60 if number == LONG else 1 + number % 4)}
        messages = [{"role": "user", "content": f"Is it so, number {number}?"}, reply]
        lines.append(json.dumps({"messages": messages}) + "\n")
    path = folder / "chat.jsonl"
    path.write_text("".join(lines))
    settings = ("data.seq_len=64", "data.validation_share=0", "data.near_duplicates=ignore")
    request = Request(name="debug/cpu-tiny", settings=settings, data=str(path))
    plan = resolve_plan(request.recipe(), Ranks(nproc=1, device="cpu"))
    ensure_pack(make_pack_job(request.recipe()), Path(plan.pack.folder), force=False, say=lambda line: None)
    return Path(plan.pack.folder)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("skip") / "data")


def documents_of_rows(pack: PackedRows) -> dict[int, list[tuple[int, int, int]]]:
    """By row: document, start and stop of each chunk; from the batches, row by row."""
    found = {}
    for number, first in enumerate(pack._batches[:, 1].tolist()):
        batch = pack._batch(number)
        for row in range(len(batch.ends) - 1):
            chunks = range(batch.ends[row], batch.ends[row + 1])
            place, spans = 0, []
            for chunk in chunks:
                spans.append((int(batch.document[chunk]), place, place + int(batch.seq_lengths[chunk])))
                place = spans[-1][2]
            found[first + row] = spans
    return found


def test_each_document_alone_loses_its_labels_and_no_other_does(pack: Path) -> None:
    plain = PackedRows(pack, "train")
    spans = documents_of_rows(plain)
    documents = sorted({document for chunks in spans.values() for document, _, _ in chunks})
    assert len(documents) == LINES
    several_rows = 0
    for document in documents:
        masked = RowsWithSkips(pack, [document])
        several_rows += len(masked.skipped[document].rows) > 1
        for row, chunks in spans.items():
            expected = plain[row].labels.copy()
            for one, start, stop in chunks:
                if one == document:
                    expected[start:stop] = IGNORED
            np.testing.assert_array_equal(masked[row].labels, expected)
            np.testing.assert_array_equal(masked[row].input_ids, plain[row].input_ids)
            np.testing.assert_array_equal(masked[row].seq_lengths, plain[row].seq_lengths)
            assert masked.trained_tokens[row] == (expected[1:] != IGNORED).sum()
        missing = plain.trained_tokens.sum() - masked.trained_tokens.sum()
        assert masked.skipped[document].trained_tokens == missing > 0
    assert several_rows


def test_without_skips_the_rows_are_those_of_the_pack(pack: Path) -> None:
    rows = open_training_rows(pack, ())
    assert type(rows) is PackedRows
    np.testing.assert_array_equal(
        rows.trained_tokens, [(rows[row].labels[1:] != IGNORED).sum() for row in range(len(rows))]
    )


def test_a_copy_in_another_process_skips_the_same(pack: Path) -> None:
    masked = RowsWithSkips(pack, [3, 5])
    copy = pickle.loads(pickle.dumps(masked))
    np.testing.assert_array_equal(copy.trained_tokens, masked.trained_tokens)


def test_a_document_that_is_not_trained_is_refused(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="skip_documents: document 999 has no trained token"):
        RowsWithSkips(pack, [3, 999])
    assert main([str(pack), "999"]) == 2
    assert "error: skip_documents: document 999" in capsys.readouterr().err


def test_what_is_skipped_is_named_with_file_line_and_rows(
    pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(pack), *map(str, range(LINES))]) == 0
    lines = capsys.readouterr().out.splitlines()
    places = sorted(int(line.partition("chat.jsonl:")[2].partition(")")[0]) for line in lines)
    assert places == list(range(1, LINES + 1))
