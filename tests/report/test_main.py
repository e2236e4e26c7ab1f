"""``python -m gemfit.report``: files, JSON, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemfit.report.__main__ import main
from gemfit.report.blocks import Chart
from report.conftest import MakeRun, step


def undrawn(chart: Chart, png: Path) -> str:
    """Charts take half a second each, and are looked at elsewhere."""
    png.touch()
    return "<svg></svg>"


def test_a_page_and_pictures_are_written_and_summarized_as_json(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.report.page.draw", undrawn)
    one, two = make_run("one"), make_run("two", records=[step(n, 1) for n in range(1, 21)])
    out = tmp_path / "report"
    assert main([str(one.root), str(two.root), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["html"] == str(out / "index.html")
    assert sorted(summary["pngs"]) == sorted(map(str, out.glob("*.png")))
    assert (summary["state"], summary["step"], summary["tokens"], summary["best"]["loss"]) == (
        "completed",
        30,
        30000,
        2.125,
    )
    assert "Settings that differ" not in (text := (out / "index.html").read_text())
    assert "All settings of these runs are the same" in text


def test_a_run_that_has_not_trained_yet_is_the_users_mistake(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    run.metrics_file.unlink()
    assert main([str(run.root), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"error: {run.metrics_file}: there is no such file; it appears with the first training step\n"
    )
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_the_users_mistake(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(make_run().root), "--out", str(tmp_path / "file" / "out")]) == 2
    assert f"error: {tmp_path / 'file' / 'out'}: Not a directory; write elsewhere" in capsys.readouterr().err


def test_an_evaluation_of_another_version_is_named(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    run.evaluation_file.parent.mkdir()
    run.evaluation_file.write_text("{}")
    assert main([str(run.root), "--out", str(tmp_path / "out")]) == 2
    assert f"error: {run.evaluation_file}: " in capsys.readouterr().err
