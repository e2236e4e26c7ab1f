"""Conversations are read back from a pack as they were written, with the system prompt of most of them."""

from __future__ import annotations

import json
import signal

import pytest

from gemfit.audit.memorisation import LEAST_TOKENS, TRAINING, VALIDATION, memorisation
from gemfit.audit.training_conversations import TrainingConversation, TrainingConversations
from gemfit.data.__main__ import main
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.schemas.evaluation import SampleMessage
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe

SYSTEM = "You listen.\nAnd answer."
COMMON_REPLY = "Thank you for telling me all of this, I am glad that you did, and I am here for you. " * 2
NUMBER = 40


def messages(number: int) -> list[dict[str, str]]:
    """Three of four have the system prompt; the last four have one reply in common."""
    unique = (
        f"On day {number} we planted {number + 3} trees, then {number * 7} birds came, {number * 11} in all. "
    )
    reply = COMMON_REPLY if number >= NUMBER - 4 else unique * 3
    return [
        *([{"role": "system", "content": SYSTEM}] if number % 4 else []),
        {"role": "user", "content": f"What happened on day {number}?"},
        {"role": "assistant", "content": "Wait."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": reply.strip()},
    ]


@pytest.fixture(scope="module", params=["role_markers", "chat_template"])
def conversations(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TrainingConversations:
    folder = tmp_path_factory.mktemp(request.param)
    texts = [message["content"] for number in range(NUMBER) for message in messages(number)]
    train_tokenizer([*texts, "user assistant system"], 400).save_pretrained(str(folder / "tokenizer"))
    data = folder / "conversations.jsonl"
    data.write_text("".join(json.dumps({"messages": messages(n)}) + "\n" for n in range(NUMBER)))
    recipe = Recipe(
        model=ModelRecipe(id=str(folder / "tokenizer")),
        data=DataRecipe(
            source=str(data),
            format=request.param,
            seq_len=512,
            validation_share=0.3,
            near_duplicates="ignore",
        ),
    )
    (folder / "job.json").write_text(make_pack_job(recipe).to_json())
    before = signal.getsignal(signal.SIGTERM)
    assert main([str(folder / "job.json"), "--out", str(folder / "pack")]) == 0
    signal.signal(signal.SIGTERM, before)
    return TrainingConversations(folder / "pack")


def line_of(conversation: TrainingConversation) -> int:
    return int(conversation.place.rpartition(":")[2]) - 1


def turns_of(
    conversation: TrainingConversation, conversations: TrainingConversations
) -> list[tuple[str, str]]:
    """Roles and contents; a system text that stands inside the first turn is taken out of it."""
    listed = [(message.role, message.content) for message in conversation.messages]
    role, text = listed[0]
    if role == "user" and text.startswith(SYSTEM):
        listed[:1] = [("system", SYSTEM), ("user", text.removeprefix(SYSTEM).lstrip())]
    return listed


def test_every_conversation_is_drawn_once_and_as_it_was_written(conversations: TrainingConversations) -> None:
    drawn = [one for split in conversations.splits for one in conversations.shuffled(split, 0)]
    assert sorted(map(line_of, drawn)) == list(range(NUMBER))
    for conversation in drawn:
        wanted = [(message["role"], message["content"]) for message in messages(line_of(conversation))]
        assert turns_of(conversation, conversations) == wanted


def test_the_seed_decides_the_order(conversations: TrainingConversations) -> None:
    orders = [[one.place for one in conversations.shuffled("train", seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_the_system_prompt_is_the_one_that_most_conversations_have(
    conversations: TrainingConversations,
) -> None:
    drawn = list(conversations.shuffled("train", 0))
    assert conversations.system_prompt(drawn) == SYSTEM
    without = [conversation for conversation in drawn if line_of(conversation) % 4 == 0]
    some = [conversation for conversation in drawn if line_of(conversation) % 4][: len(without) - 1]
    assert conversations.system_prompt([*without, *some]) == ""
    assert conversations.system_prompt([]) == ""


def test_prompts_of_memorisation_end_before_the_longest_reply_of_either_split(
    conversations: TrainingConversations,
) -> None:
    suite = memorisation(conversations, 0, None)
    assert {prompt.variant for prompt in suite.prompts} == {TRAINING, VALIDATION}
    for prompt in suite.prompts:
        assert prompt.messages[-1] == SampleMessage(role="user", content="And then?")
        number = int(prompt.number.rpartition(":")[2]) - 1
        assert prompt.facts["reference"] == messages(number)[-1]["content"]
        assert len(conversations.tokenizer(prompt.facts["reference"])["input_ids"]) >= LEAST_TOKENS


def test_a_reply_that_several_conversations_share_is_left_out(
    conversations: TrainingConversations,
) -> None:
    suite = memorisation(conversations, 0, None)
    assert len(suite.prompts) == NUMBER - 4
    assert all("Thank you" not in prompt.facts["reference"] for prompt in suite.prompts)


def test_a_limit_counts_conversations_per_split(conversations: TrainingConversations) -> None:
    splits = [prompt.variant for prompt in memorisation(conversations, 0, 3).prompts]
    assert splits == [TRAINING] * 3 + [VALIDATION] * 3
