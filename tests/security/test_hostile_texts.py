"""A run folder from a stranger: HTML and terminal escapes in its texts are shown, not followed."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from gemfit.report.load import load_run
from gemfit.report.page import make_page, render
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.report_facts import RunFacts
from gemfit_launch.runs.follow_logs import printable_log
from security.stranger import ESCAPE, HTML, SHOWN, change, cli


def test_html_in_texts_of_the_run_is_text_in_the_report(run: RunDir) -> None:
    run.write_verdict(Verdict(outcome=AttemptOutcome.FAILED, attempt=1, step=1, reason=HTML + ESCAPE))
    change(run.plan_file, lambda plan: plan["recipe"].update(description=HTML))
    page = render(make_page([load_run(run.root, RunFacts(), with_pack=False)]), lambda chart: Markup(""))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page


def test_escapes_do_not_reach_the_terminal(run: RunDir) -> None:
    run.write_verdict(Verdict(outcome=AttemptOutcome.FAILED, attempt=1, step=1, reason=ESCAPE))
    shown = cli("status", run.root)
    assert SHOWN in shown.stdout
    change(run.plan_file, lambda plan: plan.update({ESCAPE: 1}))
    refused = cli("resume", run.root)
    assert SHOWN in refused.stderr
    for text in (shown.stdout, shown.stderr, refused.stdout, refused.stderr):
        assert not set(ESCAPE) & set("\x1b\x07\x9b\u202e") & set(text)
    assert printable_log(f"a{ESCAPE}\r\n".encode()).startswith(b"a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m")


def test_what_a_pack_says_of_skipped_documents_is_escaped(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit_launch.verbs.resume.ask_module", lambda name, argv: f"{ESCAPE}:{argv[0]}\n")
    shown = cli("resume", run.root, "--skip", 1, "--dry-run").stdout
    assert shown.startswith(SHOWN)
    assert "\x1b" not in shown
