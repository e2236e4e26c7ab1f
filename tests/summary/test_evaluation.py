"""Scores of models side by side."""

from __future__ import annotations

from gemfit.schemas.evaluation import Sample, SampleMessage, TaskScore
from gemfit.summary.evaluation import LOSS, group_tables, score_table, summarize_evaluation
from gemfit.summary.format import plus_minus
from report.conftest import evaluated_model, evaluation, score


def test_models_are_side_by_side_with_their_difference_to_the_first() -> None:
    summary = summarize_evaluation(evaluation())
    table = score_table(summary.models)
    assert table.heads == ("model", "loss", "perplexity", "token accuracy", "loss less that of base")
    assert [row[0] for row in table.rows] == ["base", "step 30"]
    assert [row[-1] for row in table.rows] == ["–", "-3.0000 [-3.1000, -2.9000]"]
    assert score_table(summary.models, plus_minus).rows[0][1] == "5.1250 ± 0.1000"


def test_a_single_model_has_no_difference() -> None:
    summary = summarize_evaluation(evaluation(evaluated_model("base", None, 5.0)))
    assert score_table(summary.models).heads == ("model", "loss", "perplexity", "token accuracy")
    assert group_tables(summary, [LOSS])[0].heads == ("role", "loss, base", "tokens", "conversations")


def test_turns_are_in_order_and_the_open_group_is_last() -> None:
    summary = summarize_evaluation(evaluation())
    assert list(summary.groups["turn"]) == ["1", "2", "4+"]


def test_a_group_that_one_model_lacks_is_shown_for_the_others() -> None:
    base, trained = evaluated_model("base", None, 5.0), evaluated_model("step 1", 1, 4.0)
    summary = summarize_evaluation(
        evaluation(base.model_copy(update={"roles": {"user": score(5.0)}}), trained)
    )
    rows = {row[0]: row[1:3] for row in group_tables(summary, [LOSS])[0].rows}
    assert rows["assistant"] == ("–", "4.0000 [3.9000, 4.1000]")
    assert "–" not in rows["user"]


def test_a_single_conversation_has_no_interval() -> None:
    alone = score(5.0).model_copy(update={"conversations": 1})
    base = evaluated_model("base", None, 5.0).model_copy(update={"roles": {"user": alone}})
    assert group_tables(summarize_evaluation(evaluation(base)), [LOSS])[0].rows[0][1] == "5.0000"


def test_samples_are_joined_by_prompt_even_where_models_have_them_in_another_order() -> None:
    base, trained = evaluated_model("base", None, 5.0), evaluated_model("step 1", 1, 4.0)
    prompts = [(SampleMessage(role="user", content=text),) for text in "aab"]
    made = [Sample(prompt=p, reference="r", reply=str(n)) for n, p in enumerate(prompts)]
    first = base.model_copy(update={"samples": tuple(made)})
    second = trained.model_copy(update={"samples": tuple(reversed(made))})
    samples = summarize_evaluation(evaluation(first, second)).samples
    assert [sample.prompt[0].content for sample in samples] == ["a", "a", "b"]
    assert samples[2].replies == (("base", "2"), ("step 1", "2"))
    assert samples[0].replies == (("base", "0"), ("step 1", "1"))


def test_a_task_that_one_model_lacks_is_a_dash() -> None:
    base = evaluated_model("base", None, 5.0).model_copy(update={"tasks": ()})
    other = evaluated_model("step 1", 1, 4.0).model_copy(
        update={"tasks": (TaskScore(task="copa", metric="acc", value=0.5),)}
    )
    tasks = summarize_evaluation(evaluation(base, other)).tasks
    assert tasks is not None
    assert tasks.rows == (("copa", "acc", "–", "0.5000"),)
