"""Every token of a conversation is the right role's, in the right turn, however the conversation is cut."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from gemfit.data.inspect.annotate import AnnotatedRow, RowAnnotator
from gemfit.data.inspect.chunks import REPEATED
from gemfit.data.inspect.pack_files import open_pack_files
from gemfit.data.inspect.roles import ControlTokens, make_control_tokens
from gemfit.data.tokenize.tokenizer import load_tokenizer
from gemfit.evaluate.samples import select_prompts
from gemfit.evaluate.turn_losses import TurnSpan, turn_spans
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit_launch.runs.ensure_pack import ensure_pack

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "rain, and rain again, and a garden that drowns in it"},
    {"role": "assistant", "content": "Dig."},
    {"role": "user", "content": "where"},
    {"role": "assistant", "content": "Along the fence, two hands deep, until the water runs off by itself"},
    {"role": "user", "content": "and then"},
    {"role": "assistant", "content": "Wait, and look."},
]


class ValidationRows:
    """Validation rows of a small pack."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = load_tokenizer(str(folder / "tokenizer"))
        self.files = open_pack_files(folder)
        self.marks: ControlTokens = make_control_tokens(self.tokenizer, "role_markers", "token")
        count = self.files.manifest.splits["validation"].rows
        self.rows: list[AnnotatedRow] = list(
            RowAnnotator(self.files, self.marks).rows("validation", range(count))
        )


@pytest.fixture(scope="module", params=["split", "cut"])
def validation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ValidationRows:
    root = tmp_path_factory.mktemp(request.param)
    lines = (
        [CONVERSATION[0], {"role": "user", "content": f"chat {n}"}, CONVERSATION[2], *CONVERSATION[1:]]
        for n in range(8)
    )
    (root / "data.jsonl").write_text(
        "".join(json.dumps({"messages": conversation}) + "\n" for conversation in lines)
    )
    data = DataRecipe(
        source=str(root / "data.jsonl"),
        seq_len=48,
        overlong=request.param,
        validation_share=0.5,
        near_duplicates="ignore",
    )
    scratch = ScratchModel(vocab_size=330, num_hidden_layers=1)
    job = make_pack_job(Recipe(model=ModelRecipe(scratch=scratch), data=data))
    ensure_pack(job, root / "pack", force=False, say=lambda line: None)
    return ValidationRows(root / "pack")


def test_the_words_of_each_turn_are_those_of_its_message(validation: ValidationRows) -> None:
    found = words(validation, turn_spans(validation.rows))
    assert len({document for document, _, _ in found}) >= 2
    assert any(len(row.chunks) and row.chunks[0].chunk.start for row in validation.rows), "nothing was cut"
    expected = {"system": [CONVERSATION[0]["content"]], "user": user_words(), "assistant": assistant_words()}
    for (_, role, turn), text in found.items():
        assert expected[role][turn - 1] in text, (role, turn, text)


def user_words() -> list[str]:
    return ["chat ", *(message["content"] for message in CONVERSATION if message["role"] == "user")]


def assistant_words() -> list[str]:
    return [CONVERSATION[2]["content"], *(m["content"] for m in CONVERSATION if m["role"] == "assistant")]


def words(validation: ValidationRows, found: dict[int, list[TurnSpan]]) -> dict[tuple[int, str, int], str]:
    """The text of each turn, put together from wherever its tokens are."""
    tokens: dict[tuple[int, str, int], dict[int, int]] = defaultdict(dict)
    for row in validation.rows:
        for document, role, turn, start, stop in found[row.number]:
            chunk = next(p for p in row.chunks if p.chunk.begin <= start < p.chunk.begin + len(p.chunk))
            for place in range(start, stop):
                at = int(chunk.positions[place - chunk.chunk.begin])
                if turn and at != REPEATED:
                    assert at not in tokens[document, role, turn]
                    tokens[document, role, turn][at] = int(row.ids[place])
    return {
        key: validation.tokenizer.decode([ids[at] for at in sorted(ids)], skip_special_tokens=False)
        for key, ids in tokens.items()
    }


def test_turn_spans_cover_every_trained_place_once(validation: ValidationRows) -> None:
    found = turn_spans(validation.rows)
    for row in validation.rows:
        covered = [place for span in found[row.number] for place in range(span.start, span.stop)]
        assert sorted(covered) == list(range(len(row.ids) - row.padding))


def test_samples_stop_before_a_whole_reply_and_are_the_same_in_any_order(validation: ValidationRows) -> None:
    chosen = select_prompts(validation.rows, validation.marks, validation.tokenizer, count=3, seed=0)
    assert chosen == select_prompts(
        validation.rows[::-1], validation.marks, validation.tokenizer, count=3, seed=0
    )
    assert 2 <= len(chosen) <= 3
    for prompt in chosen:
        roles = [message.role for message in prompt.prompt]
        assert roles[0] == "system"
        assert roles[-1] == "user"
        assert prompt.reference in assistant_words()
        assert prompt.prompt[0].content == "Be brief."
        assert prompt.prompt[1].content.startswith("chat ")


def test_another_seed_chooses_other_samples(validation: ValidationRows) -> None:
    orders = {
        tuple(
            o.document
            for o in select_prompts(
                validation.rows, validation.marks, validation.tokenizer, count=2, seed=seed
            )
        )
        for seed in range(8)
    }
    assert len(orders) > 1
