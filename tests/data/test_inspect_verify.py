"""``verify``: a sound pack passes, and every kind of planted defect is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.conftest import random_conversations
from data.handmade import IGNORED, Handmade, Row, handmade
from gemfit.data.inspect.__main__ import main
from gemfit.schemas.manifest import Losses, SplitCounts

Plant = Callable[[Handmade], None]


@pytest.fixture
def made(tokenizer: Any) -> Handmade:
    return handmade(tokenizer, random_conversations(24), loss_on="all")


def verdict(made: Handmade, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["verify", str(made.write(folder))])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("loss_on", ["all", "assistant"])
def test_a_sound_pack_passes(
    loss_on: str, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = handmade(tokenizer, random_conversations(24), loss_on=loss_on)
    status, out, err = verdict(made, tmp_path / "pack", capsys)
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line[:1].islower()] == [
        "check",
        "files",
        "conversations",
        "rows",
        "ledger",
        "sums",
    ]
    trained = sum(row.trained_tokens for rows in made.rows.values() for row in rows)
    assert f"{trained:,} trained tokens" in out


def train_row(made: Handmade, *, padded: bool = False, chunks: int = 1, repeated: bool = False) -> Row:
    """A training row of this kind; the defects are planted where they mean something."""
    return next(
        row
        for row in made.rows["train"]
        if (row.tokens < made.seq_len) >= padded
        and len(row.seq_lengths) >= chunks
        and bool(row.repeated[0]) >= repeated
    )


def a_changed_label(made: Handmade) -> None:
    row = train_row(made)
    place = row.tokens - 1
    row.labels[place] += 1


def a_lost_label(made: Handmade) -> None:
    row = train_row(made)
    row.labels[row.tokens - 1] = IGNORED


def a_lost_label_that_is_not_counted(made: Handmade) -> None:
    row = train_row(made)
    row.labels[row.tokens - 1] = IGNORED
    row.trained_tokens -= 1


def a_label_across_documents(made: Handmade) -> None:
    row = train_row(made, chunks=2)
    row.labels[row.seq_lengths[0]] = row.input_ids[row.seq_lengths[0]]
    row.trained_tokens += 1


def a_label_on_repeated_context(made: Handmade) -> None:
    row = train_row(made, repeated=True)
    row.labels[2] = row.input_ids[2]
    row.trained_tokens += 1


def a_label_on_padding(made: Handmade) -> None:
    row = train_row(made, padded=True)
    row.labels[-1] = row.input_ids[-1]


def other_padding(made: Handmade) -> None:
    train_row(made, padded=True).input_ids[-1] += 5


def a_wrong_length(made: Handmade) -> None:
    train_row(made).seq_lengths[0] -= 1


def a_wrong_number_of_tokens(made: Handmade) -> None:
    train_row(made).tokens -= 1


def a_document_that_does_not_exist(made: Handmade) -> None:
    train_row(made).document[0] = 1000


def a_document_of_the_other_side(made: Handmade) -> None:
    validation_entry = next(
        entry for entry in made.entries if entry.disposition == "kept" and entry.split == 1
    )
    train_row(made).document[0] = validation_entry.number


def a_piece_beyond_its_end(made: Handmade) -> None:
    train_row(made).starts[0] += 10_000


def a_piece_in_the_wrong_place(made: Handmade) -> None:
    row = train_row(made, repeated=True)
    row.starts[0] -= 1


def a_row_twice(made: Handmade) -> None:
    made.rows["train"].append(made.rows["train"][3])


def a_row_lost(made: Handmade) -> None:
    del made.rows["train"][3]


def a_copy_too_few(made: Handmade) -> None:
    next(entry for entry in made.entries if entry.disposition == "kept").copies += 1


def two_numbers_alike(made: Handmade) -> None:
    kept = [entry for entry in made.entries if entry.disposition == "kept"]
    kept[0].number = kept[1].number


def an_order_that_is_not_canonical(made: Handmade) -> None:
    first, second = (next(entry for entry in made.entries if entry.number == number) for number in (0, 1))
    first.digest, second.digest = second.digest, first.digest


def a_copy_that_is_none(made: Handmade) -> None:
    next(entry for entry in made.entries if entry.disposition == "duplicate").digest = b"0" * 16


def a_line_that_vanishes(made: Handmade) -> None:
    counts = dict.fromkeys((name for name, one in Losses.model_fields.items() if one.is_required()), 0)
    made.changes["losses"] = Losses(**counts | {"lines_read": len(made.entries) + 1})


def tokens_that_vanish(made: Handmade) -> None:
    flow = made.flow()
    first = flow["first"].model_copy(update={"left_by_weight": 0})
    made.changes["flow"] = flow | {"first": first}


def a_split_counted_wrong(made: Handmade) -> None:
    train = made.rows["train"]
    counts = SplitCounts(rows=len(train), conversations=1, documents=1, tokens=1, trained_tokens=1)
    made.changes["splits"] = {"train": counts, "validation": counts}
    made.rows["validation"] = train


def roles_counted_wrong(made: Handmade) -> None:
    made.changes["roles"] = {"user": 1}


DEFECTS: dict[Plant, str] = {
    a_changed_label: "a label is neither the token itself nor -100",
    a_lost_label: "its trained_tokens are not the number of its labels",
    a_lost_label_that_is_not_counted: "under loss_on: all a token of a conversation has no label",
    a_label_across_documents: "the first token of a document has a label",
    a_label_on_repeated_context: "a document has fewer tokens without a label than repeated ones",
    a_label_on_padding: "the padding has a label",
    other_padding: "the padding is not the pad token",
    a_wrong_length: "its seq_lengths are not positive, or do not add up to its tokens",
    a_wrong_number_of_tokens: "its seq_lengths are not positive, or do not add up to its tokens",
    a_document_that_does_not_exist: "a document has a number that no conversation of this split has",
    a_document_of_the_other_side: "a document has a number that no conversation of this split has",
    a_piece_beyond_its_end: "a document goes beyond the end of its conversation",
    a_piece_in_the_wrong_place: "are expected in the rows twice, and are there 3 times",
    a_row_twice: "are expected in the rows twice, and are there 3 times",
    a_row_lost: "are expected in the rows twice, and are there once",
    a_copy_too_few: "are expected in the rows twice, and are there once",
    two_numbers_alike: "has the number",
    an_order_that_is_not_canonical: "its digest does not follow that of the conversation",
    a_copy_that_is_none: "is marked as a duplicate of",
    a_line_that_vanishes: "26 lines should be conversations, but 25 are",
    tokens_that_vanish: "flow.first.left_by_weight is 0 in the manifest, but",
    a_split_counted_wrong: "splits.train.conversations is 1 in the manifest, but",
    roles_counted_wrong: "roles add up to 1 tokens",
}


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_found_and_named(
    plant: Plant, made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(made)
    status, out, err = verdict(made, tmp_path / "pack", capsys)
    assert (status, out) == (2, "")
    assert DEFECTS[plant] in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert f"error: {tmp_path / 'pack'}: is not sound; delete it and pack again" in err


def test_a_gap_and_a_repetition_name_the_line_of_the_input(
    made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = made.rows["train"].pop(3)
    entry = next(
        entry for entry in made.entries if entry.number == row.document[-1] and entry.disposition == "kept"
    )
    _, _, err = verdict(made, tmp_path / "pack", capsys)
    assert f"{('first', 'second')[entry.source]}.jsonl:{entry.line} (document {entry.number}): tokens " in err


def test_chunks_without_trained_tokens_may_be_missing_if_counted(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = handmade(tokenizer, random_conversations(24), seq_len=12, loss_on="assistant")
    once = {entry.number for entry in made.entries if entry.disposition == "kept" and entry.copies == 1}
    row = next(row for row in made.rows["train"] if not row.trained_tokens and set(row.document) <= once)
    entry = next(
        entry for entry in made.entries if entry.number == row.document[0] and entry.disposition == "kept"
    )
    made.rows["train"].remove(row)
    assert "and are there not at all" in verdict(made, tmp_path / "unannounced", capsys)[2]
    entry.untrained = sum(row.seq_lengths) - sum(row.repeated)
    err = verdict(made, tmp_path / "announced", capsys)[2]
    assert "not at all" not in err
    assert "flow.first.untrained is 0 in the manifest" in err
    entry.untrained += 1
    assert "of its tokens are in no row, expected" in verdict(made, tmp_path / "too-few", capsys)[2]


@pytest.mark.parametrize(
    "name", ["train/data-00000-of-00001.arrow", "conversations.arrow", "tokenizer/tokenizer.json"]
)
def test_a_flipped_bit_in_any_file_is_found(
    name: str, made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made.write(tmp_path / "pack")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert main(["verify", str(folder)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {folder / name}: is not what was packed")


def test_missing_shortened_and_stray_files_are_named(
    made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made.write(tmp_path / "pack")
    (folder / "conversations.arrow").unlink()
    (folder / "train/counts.npy").write_bytes(b"short")
    (folder / "train/notes.txt").touch()
    assert main(["verify", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "conversations.arrow: is missing" in err
    assert "train/counts.npy: has 5 bytes where" in err
    assert "train/notes.txt: is not in the manifest" in err


def test_wrong_row_numbers_are_found(
    made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = np.save

    def swapped(path: Path, table: Any) -> None:
        if path.name == "batches.npy" and path.parent.name == "train":
            table[[1, 2], 2] = table[[2, 1], 2]
        if path.name == "counts.npy" and path.parent.name == "train":
            table[0, 4] -= 1
        save(path, table)

    monkeypatch.setattr("data.handmade.np.save", swapped)
    status, _, err = verdict(made, tmp_path / "pack", capsys)
    assert status == 2
    assert "train row 3: its number leads to another row" in err
    assert "train row 4: its tokens are 48, counted as 47" in err


def test_json_holds_checks_and_problems(
    made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(made.write(tmp_path / "sound")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sound"]
    a_row_lost(made)
    assert main(["verify", str(made.write(tmp_path / "unsound")), "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert not result["sound"]
    assert any("are there once" in problem for check in result["proofs"] for problem in check["problems"])


def test_many_problems_of_a_check_are_counted_not_listed(
    made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.rows["train"].clear()
    _, _, err = verdict(made, tmp_path / "pack", capsys)
    assert len(err.splitlines()) < 80
    assert "more of this kind" in err


def test_a_folder_that_is_not_a_pack_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "is not a finished pack" in capsys.readouterr().err
