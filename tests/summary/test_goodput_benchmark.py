"""The benchmark of goodput: its trace follows from the seed, its accounting from the logs of both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from dataclasses import asdict
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "goodput"
Who = Literal["gemfit", "trainer"]
SIDES: tuple[Who, ...] = ("gemfit", "trainer")
BEGAN = 1000.0


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Modules of the benchmark; its folder is on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return {name: import_module(name) for name in ("event_trace", "accounting", "sides", "result_page")}


def test_a_trace_follows_from_its_seed(modules: dict[str, ModuleType]) -> None:
    trace = modules["event_trace"]
    full = trace.make_trace(18)
    assert full == trace.make_trace(18)
    assert full != trace.make_trace(19)
    assert len(full) == 12
    assert Counter(event.kind for event in full) == Counter(dict(trace.COUNTS))
    assert {event.node for event in full} == {0, 1}
    gaps = [later.at - event.at for event, later in pairwise(full)]
    assert all(trace.SHORTEST_GAP - 0.1 <= gap <= trace.LONGEST_GAP + 0.1 for gap in gaps)


def test_a_shorter_or_slower_trace_has_the_same_events(modules: dict[str, ModuleType]) -> None:
    trace = modules["event_trace"]
    full, slow = trace.make_trace(18), trace.make_trace(18, stretch=2.0)
    assert trace.make_trace(18, 5) == full[:5]
    assert [(event.kind, event.node) for event in slow] == [(event.kind, event.node) for event in full]
    assert [event.at for event in slow] == pytest.approx([2 * event.at for event in full], abs=0.2)
    assert trace.trace_end(full) > full[-1].at


def history(who: Who) -> list[tuple[int, int, float]]:
    """Attempt, step and end of each step, a second each: a preemption with notice, then a killed rank.

    Both begin to train at second 10. The first event is at second 20.5, the second at 50.5; checkpoints are
    of every fifth step. Gemfit saves on notice; the Trainer does not, and starts more slowly.
    """
    first = [(1, step, 10.0 + step) for step in range(1, 11)]
    if who == "gemfit":  # one more step, then its save
        second = [(2, step, 30.0 + step - 11) for step in range(12, 32)]
        return [*first, (1, 11, 21.0), *second, (3, 31, 61.0), (3, 32, 62.0)]
    first.pop()  # step 10 was not finished
    second = [(2, step, 34.0 + step - 5) for step in range(6, 22)]
    return [*first, *second, *((3, step, 65.0 + step - 20) for step in range(21, 23))]


def write_log(who: Who, folder: Path) -> None:
    """Steps of the history as this side writes them, and a line that a kill has cut."""
    kind = {"kind": "step", "epoch": 0.1} if who == "gemfit" else {}
    lines = [
        kind
        | {"attempt": attempt, "step": step, "time": BEGAN + end, "seconds": 1.0, "loss": 5.0 - step / 10}
        for attempt, step, end in history(who)
    ]
    other = [{"kind": "save", "attempt": 1, "step": 5}] if who == "gemfit" else []
    path = folder / "run" / "metrics.jsonl" if who == "gemfit" else folder / "steps.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *other]) + '{"kind": "st')


def done_steps(modules: dict[str, ModuleType], who: Who, folder: Path) -> Any:
    if who == "gemfit":
        return modules["sides"].OurSide(None, folder, 5).steps()
    return modules["sides"].PeerSide(None, folder, None, save_steps=5).steps()


def account(modules: dict[str, ModuleType], who: Who, folder: Path) -> Any:
    accounting = modules["accounting"]
    write_log(who, folder)
    events = [
        accounting.DoneEvent("preemption", BEGAN + 20.5),
        accounting.DoneEvent("killed rank", BEGAN + 50.5),
    ]
    # In the queue from second 22 to 26, and from 52 to 56; what comes after the last sample is not known.
    states = [(0.0, "RUNNING"), (21.0, "COMPLETING"), (22.0, "PENDING"), (26.0, "RUNNING")]
    states += [(52.0, "PENDING"), (56.0, "RUNNING"), (68.0, "RUNNING")]
    return accounting.account(
        done_steps(modules, who, folder), [(BEGAN + time, state) for time, state in states], events
    )


@pytest.mark.parametrize(
    ("who", "kept", "replayed", "lost", "back"),
    [("gemfit", 32, 1, [0, 1], [10.5, 11.5]), ("trainer", 22, 5, [4, 1], [18.5, 16.5])],
)
def test_the_accounting_of_both_sides_follows_from_their_logs(
    modules: dict[str, ModuleType],
    tmp_path: Path,
    who: Who,
    kept: int,
    replayed: int,
    lost: list[int],
    back: list[float],
) -> None:
    found = account(modules, who, tmp_path)
    assert found.allocated_seconds == pytest.approx(22 + 26 + 12)
    assert (found.kept_steps, found.replayed_steps) == (kept, replayed)
    assert found.goodput == pytest.approx(kept / 60)
    assert [one.lost_steps for one in found.recoveries] == lost
    assert [one.seconds for one in found.recoveries] == pytest.approx(back)
    assert found.lost_with_notice == lost[0]


def test_an_event_before_which_no_step_came_back_is_counted_once(modules: dict[str, ModuleType]) -> None:
    accounting = modules["accounting"]
    steps = [accounting.DoneStep(1, step, BEGAN + step, 1.0, 1.0) for step in (1, 2, 3)]
    steps += [accounting.DoneStep(3, step, BEGAN + 27 + step, 1.0, 1.0) for step in (3, 4)]
    events = [accounting.DoneEvent("reclaim", BEGAN + 3.5), accounting.DoneEvent("reclaim", BEGAN + 20.0)]
    first, second = accounting.recoveries(steps, events)
    assert (first.lost_steps, first.seconds) == (None, None)
    assert (second.lost_steps, second.seconds) == (1, pytest.approx(11.0))


def test_losses_are_compared_where_both_runs_have_kept_a_step(modules: dict[str, ModuleType]) -> None:
    accounting = modules["accounting"]
    unbroken = [accounting.DoneStep(1, step, BEGAN + step, 1.0, 2.0) for step in (1, 2, 3, 4)]
    broken = [accounting.DoneStep(1, step, BEGAN + step, 1.0, 2.0) for step in (1, 2)]
    broken += [
        accounting.DoneStep(2, step, BEGAN + 9 + step, 1.0, loss) for step, loss in ((2, 2.5), (3, 2.0))
    ]
    assert accounting.largest_difference(broken, unbroken) == (3, 0.5)


@pytest.mark.parametrize("came_back", [True, False])
def test_the_page_has_the_figures_of_both_sides(
    modules: dict[str, ModuleType], tmp_path: Path, came_back: bool
) -> None:
    found: dict[str, dict[str, Any]] = {}
    for who in SIDES:
        result = account(modules, who, tmp_path / who).as_dict()
        if not came_back:
            result["recoveries"] = [
                one | {"lost_steps": None, "seconds": None} for one in result["recoveries"]
            ]
        steps = [asdict(one) for one in done_steps(modules, who, tmp_path / who)]
        found[f"trace-{who}"] = result | {"steps": steps, "events": [{"late": 0.0}, {"late": 1.5}]}
        found[f"unbroken-{who}"] = {"steps": steps}
    trace = modules["event_trace"].make_trace(18, 2)
    options = Namespace(seed=18, events=2, stretch=2.0, save_steps=5)
    text = modules["result_page"].page(found, trace, slurm="slurm", options=options)
    assert "`python benchmarks/goodput --seed 18 --events 2 --stretch 2 --save-steps 5`" in text
    assert "gaps (56 to 84 s," in " ".join(text.split())
    assert "| goodput | 53.3% | 36.7% |\n" in text
    assert "**1.45 times** that of the peer" in text
    back = "11.0 (11.5) | 17.5 (18.5)" if came_back else "- | -"
    assert f"| seconds to come back, median (longest) | {back} |\n" in text
    assert "0.0e+00 over 32 steps | 0.0e+00 over 22 steps" in text
    assert text.splitlines()[-1].endswith("| 1.5 |")


def test_records_of_other_options_are_refused(tmp_path: Path) -> None:
    made = {"seed": 18, "events": 12, "save_steps": 15, "stretch": 2.0}
    (tmp_path / "options.json").write_text(json.dumps(made))
    command = [sys.executable, str(FOLDER), "--folder", str(tmp_path), "--seed", "19"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--seed 18 --events 12 --save-steps 15 --stretch 2.0; use another --folder" in done.stderr
    assert json.loads((tmp_path / "options.json").read_text()) == made
