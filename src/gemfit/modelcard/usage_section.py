"""How the model is used, with the exact input format; limits; and how to make it again."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from gemfit.evaluate.system_prompt import SystemPrompts
from gemfit.modelcard.base_model import GEMMA_TERMS
from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.markdown import bullets, facts, section, verbatim

QUESTION = "I cannot sleep before my exams."
PLACE = "<this repository, or the folder of the model>"

LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{place}")
model = AutoModelForCausalLM.from_pretrained("{place}", dtype="auto", device_map="auto")
messages = {messages}
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def use_section(told: CardFacts, tokenizer: Any | None) -> str:
    """Code that runs, and what the model is given by it; ``tokenizer`` has the exported chat template."""
    system = told.system.most_common if isinstance(told.system, SystemPrompts) else None
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": QUESTION})
    listed = "[\n" + "".join(f"    {message!r},\n" for message in messages) + "]"
    place = told.repo or PLACE
    written = (
        [
            "The chat template writes them as exactly this text, which ends where the reply begins:",
            verbatim(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)),
        ]
        if tokenizer is not None
        else ["The tokenizer of the run is gone, so no example of its text can be shown here."]
    )
    with_peft = (
        "The adapter is loaded on top of its base model, which needs `peft`." if told.is_adapter else ""
    )
    if told.is_adapter and told.plan.recipe.model.quantization is not None:
        with_peft += (
            " It was trained on weights in 4 bits: on others, such as those that this program loads, its "
            "replies are not those that were measured."
        )
    program = verbatim(LOADING.format(place=place, messages=listed), "python")
    return section("How to use it", with_peft, program, *written)


def limits_section(told: CardFacts) -> str:
    """What the model is meant for, and what is known not to hold."""
    data = told.plan.recipe.data
    lines = [
        "It continues conversations like those that it was trained on; nothing else was measured.",
        "It is no professional and replaces none: not for a diagnosis, a treatment or help in a crisis.",
        "It states falsehoods fluently, and has the biases of its base model and of its data.",
        f"Rows had {data.seq_len:,} tokens: longer conversations than that were not seen in training.",
    ]
    if data.pii != "mask":
        lines.append("It may repeat passages of its training conversations, personal data included.")
    if told.origin.license == "gemma":
        lines.append(
            "Gemma is provided under and subject to the Gemma Terms of Use found at "
            f"{GEMMA_TERMS}, and so is a model derived from it; its prohibited uses are prohibited here too."
        )
    return section("Intended use and limits", bullets(lines))


def reproduction_section(told: CardFacts) -> str:
    """The recipe, the plan's digest and the version: what the same training needs."""
    plan = told.plan
    rows = [
        ("gemfit", plan.versions.get("gemfit", "not recorded")),
        ("plan digest", told.checkpoint.plan_digest),
        ("pack fingerprint", plan.pack.fingerprint),
        ("checkpoint", f"step {told.checkpoint.step:,}, attempt {told.checkpoint.attempt}"),
    ]
    recipe: dict[str, Any] = _without_folders(plan.recipe.model_dump(mode="json", exclude_none=True))
    return section(
        "Reproduction",
        facts(rows),
        "`gemfit run recipe.yaml` with this recipe and the same data trains the same rows in the same order, "
        "on any number of ranks. Absolute paths are shortened to their last part.",
        verbatim(_yaml(recipe), "yaml"),
    )


def _yaml(value: dict[str, Any]) -> str:
    stream = StringIO()
    YAML().dump(value, stream)
    return stream.getvalue()


def _without_folders(value: Any) -> Any:
    """``value`` with absolute paths as their last part: a card is for others."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"(~|/|\./|\.\./)[^\n]*/[^\n/]+/?", value):
        return value.rstrip("/").rpartition("/")[2]
    return value
