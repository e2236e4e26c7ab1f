"""``stats``: statistics of a pack, and its token accounting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.conftest import random_conversations
from data.handmade import Handmade, handmade
from gemfit.data.inspect.__main__ import main

Stats = Callable[..., tuple[int, str, str]]


@pytest.fixture
def made(tokenizer: Any) -> Handmade:
    return handmade(tokenizer, random_conversations(24))


@pytest.fixture
def stats(made: Handmade, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Stats:
    """Exit status and what is printed, of the pack ``made`` as it is when this is called."""

    def run(*options: str) -> tuple[int, str, str]:
        folder = tmp_path / "pack"
        if not folder.exists():
            made.write(folder)
        status = main(["stats", str(folder), *options])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def numbers(line: str) -> list[int]:
    return [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]


def test_tokens_in_equal_tokens_out_for_each_source(made: Handmade, stats: Stats) -> None:
    status, out, err = stats()
    assert (status, err) == (0, "")
    lines = {line.split()[0]: numbers(line) for line in out.splitlines() if line and len(numbers(line)) == 3}
    assert lines["in"] == lines["out"]
    assert lines["in"][2] == lines["in"][0] + lines["in"][1] > 0
    assert lines["read"][2] == sum(len(entry.ids) for entry in made.entries)


def test_json_holds_all_figures(made: Handmade, stats: Stats) -> None:
    figures = json.loads(stats("--json")[1])
    train = made.rows["train"]
    assert figures["splits"]["train"]["rows"] == len(train)
    assert figures["splits"]["train"]["fill"] == pytest.approx(
        sum(r.tokens for r in train) / 48 / len(train), abs=1e-6
    )
    kept = sorted(len(entry.ids) for entry in made.entries if entry.disposition == "kept")
    lengths = figures["spread"]["tokens of a conversation"]
    assert (lengths["count"], lengths["min"], lengths["max"]) == (len(kept), kept[0], kept[-1])
    assert lengths["p50"] in kept
    assert figures["spread"]["documents in a row of train"]["max"] == max(len(row.document) for row in train)
    assert figures["dispositions"]["kept"] == {"conversations": len(kept), "tokens": sum(kept)}
    assert figures["dispositions"]["left_by_weight"]["conversations"] == 1
    assert figures["problems"] == []


@pytest.mark.parametrize("name", ["first", "total"])
def test_a_sum_that_is_wrong_ends_in_failure_and_is_named(name: str, made: Handmade, stats: Stats) -> None:
    flow = made.flow()
    made.changes["flow"] = flow | {name: flow[name].model_copy(update={"duplicate": 7_000})}
    status, out, err = stats()
    assert status == 1
    assert f"flow.{name}: read, repeated and oversampled tokens are" in err
    assert "Token accounting" in out


def test_balanced_sums_that_differ_from_the_conversations_are_named(made: Handmade, stats: Stats) -> None:
    flow = made.flow()
    made.changes["flow"] = {
        name: one.model_copy(update={"duplicate": 0, "near_duplicate": one.duplicate})
        for name, one in flow.items()
    }
    status, _, err = stats()
    assert status == 1
    wrong = flow["total"].duplicate
    assert f"flow.total.near_duplicate is {wrong:,} in the manifest, but 0 are counted" in err


def test_reasons_of_rejected_lines_are_counted_by_kind(made: Handmade, stats: Stats, tmp_path: Path) -> None:
    folder = made.write(tmp_path / "pack")
    entries = [
        {"place": f"a.jsonl:{line}", "line": line, "reason": f"messages[{line}].role is 'bot', expected user"}
        for line in (3, 5, 8)
    ]
    entries.append({"place": "a.jsonl:9", "line": 9, "reason": "is not JSON: unexpected end"})
    (folder / "rejected.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    rejected = json.loads(stats("--json")[1])["rejected"]
    assert [(reason["lines"], reason["first"]) for reason in rejected] == [(3, "a.jsonl:3"), (1, "a.jsonl:9")]
    assert "a.jsonl:3" in stats()[1]


def test_a_plot_is_written(stats: Stats, tmp_path: Path) -> None:
    assert stats("--plot", str(tmp_path / "pack.png"))[0] == 0
    assert (tmp_path / "pack.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_written_is_an_error(stats: Stats, tmp_path: Path) -> None:
    status, _, err = stats("--plot", str(tmp_path / "nowhere" / "pack.png"))
    assert status == 2
    assert "cannot be written" in err


def test_sigpipe_handling_of_a_caller_is_unchanged(stats: Stats) -> None:
    before = signal.getsignal(signal.SIGPIPE)
    stats()
    assert signal.getsignal(signal.SIGPIPE) is before


def test_a_closed_output_pipe_is_not_an_error(made: Handmade, tmp_path: Path) -> None:
    made.write(tmp_path / "pack")
    program = [sys.executable, "-m", "gemfit.data.inspect", "stats", str(tmp_path / "pack")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE
