"""``gemfit eval`` hands the measuring over, and shows what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import (
    EvaluatedModel,
    Evaluation,
    Interval,
    Sample,
    SampleMessage,
    Score,
    TaskScore,
)
from gemfit.schemas.plan import Plan

Cli = Callable[..., Result]


def interval(value: float, half: float = 0.01) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def score(loss: float, tokens: int = 1200) -> Score:
    return Score(
        loss=interval(loss),
        perplexity=interval(8.25, 0.5),
        token_accuracy=interval(0.4, 0.02),
        tokens=tokens,
        conversations=30,
    )


def evaluated_model(name: str, loss: float, reply: str) -> EvaluatedModel:
    prompt = (
        SampleMessage(role="system", content="Be kind."),
        SampleMessage(role="user", content="I cannot sleep."),
    )
    return EvaluatedModel(
        name=name,
        step=None,
        overall=score(loss),
        roles={"assistant": score(loss, 800), "user": score(loss + 1, 400)},
        depths={"1": score(loss), "8+": score(loss - 0.5, 77)},
        samples=(Sample(prompt=prompt, reference="Since when?", reply=reply),) * 5,
        tasks=(TaskScore(task="copa", metric="acc", value=0.5, stderr=0.05),),
    )


EVALUATION = Evaluation(
    pack="0" * 32,
    split="validation",
    confidence=0.95,
    resamples=2000,
    seed=0,
    world_size=1,
    models=(evaluated_model("base", 3.5, "Sleep."), evaluated_model("step 200", 2.5, "\x1b[2Jword " * 80)),
    differences={"step 200": Interval(value=-1, low=-1.25, high=-0.75)},
    created="2026-01-01T00:00:00+00:00",
    versions={},
)


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    return RunDir.create(tmp_path / "run", plan)


@pytest.fixture
def calls(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What would have been run; a call writes the evaluation."""
    made: list[tuple[str, list[str]]] = []

    def record(module: str, arguments: list[str]) -> ExitCode:
        made.append((module, arguments))
        if "nope" in arguments:
            return ExitCode.USER_ERROR
        write(run)
        return ExitCode.DONE

    monkeypatch.setattr("gemfit_launch.verbs.evaluate.run_module", record)
    monkeypatch.setattr("gemfit_launch.verbs.evaluate.require_train_extra", lambda verb: None)
    return made


def write(run: RunDir) -> None:
    run.evaluation_file.parent.mkdir(exist_ok=True)
    run.evaluation_file.write_text(EVALUATION.to_json())


def test_options_reach_the_process_that_measures(
    run: RunDir, calls: list[tuple[str, list[str]]], cli: Cli
) -> None:
    result = cli("eval", run.root, "--checkpoint", "base", "--checkpoint", "best", "--nproc", 2, "--rows", 50)
    assert result.exit_code == 0, result.output
    [(module, arguments)] = calls
    assert module == "gemfit.evaluate"
    assert arguments[:5] == [str(run.root), "--checkpoint", "base", "--checkpoint", "best"]
    options = dict(zip(arguments[5::2], arguments[6::2], strict=True))
    assert options["--nproc"] == "2"
    assert options["--rows"] == "50"
    assert options["--max-new-tokens"] == "128"
    assert "--tasks" not in options


def test_models_stand_side_by_side_with_their_intervals(run: RunDir, calls: object, cli: Cli) -> None:
    shown = cli("eval", run.root).output
    for words in (
        "3.5000 ± 0.0100",
        "40.00% ± 2.00%",
        "-1.0000 [-1.2500, -0.7500]",
        "0.5000 ± 0.0500",
        "8+",
        "1,200 trained tokens of 30 conversations",
    ):
        assert words in shown, shown
    assert max(map(len, shown.splitlines())) <= 100


def test_samples_are_short_and_harmless_unless_asked_for_in_full(run: RunDir, cli: Cli) -> None:
    write(run)
    short, whole = cli("eval", run.root, "--show").output, cli("eval", run.root, "--show", "--all").output
    assert ("sample 3 of 5" in short, "sample 4 of 5" in short, "sample 5 of 5" in whole) == (
        True,
        False,
        True,
    )
    assert "…" in short
    assert "Be kind." not in short
    assert "Be kind." in whole
    assert "\x1b" not in short + whole


def test_a_group_of_one_conversation_shows_no_interval(run: RunDir, cli: Cli) -> None:
    write(run)
    base = EVALUATION.models[0]
    lone = base.depths["8+"].model_copy(update={"conversations": 1})
    models = (base.model_copy(update={"depths": {"8+": lone}}),)
    run.evaluation_file.write_text(EVALUATION.model_copy(update={"models": models}).to_json())
    line = next(line for line in cli("eval", run.root, "--show").output.splitlines() if line.startswith("8+"))
    assert line.split() == ["8+", "3.0000", "77", "1"]


def test_json_is_the_evaluation_itself(run: RunDir, cli: Cli) -> None:
    write(run)
    shown = cli("eval", run.root, "--show", "--json").output
    assert Evaluation.model_validate_json(shown) == EVALUATION


def test_a_mistake_that_the_process_found_is_passed_on(run: RunDir, calls: object, cli: Cli) -> None:
    assert cli("eval", run.root, "--checkpoint", "nope").exit_code == ExitCode.USER_ERROR


def test_what_has_no_effect_or_is_not_there_is_refused(run: RunDir, calls: object, cli: Cli) -> None:
    limited = cli("eval", run.root, "--limit", 5)
    assert (limited.exit_code, "use --rows" in limited.stderr) == (2, True)
    both = cli("eval", run.root, "--show", "--rows", 5, "--checkpoint", "best", "--all")
    assert (both.exit_code, "--checkpoint, --rows has no effect" in both.stderr) == (2, True)
    unmeasured = cli("eval", run.root, "--show")
    assert (unmeasured.exit_code, "was not evaluated yet" in unmeasured.stderr) == (2, True)
