"""Usage in a model card: code, exact input format, intended use and limits, reproduction."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from jinja2 import TemplateError
from ruamel.yaml import YAML

from gemfit.data.render.render_template import render_template
from gemfit.errors import UserError
from gemfit.evaluate.system_prompt import SystemPrompts
from gemfit.export.base_model import GEMMA_TERMS
from gemfit.modelcard.facts import CardFacts
from gemfit.summary.markdown import bullets, key_values, section, verbatim

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


def use_section(facts: CardFacts, tokenizer: Any | None) -> str:
    """Runnable code and the exact input text; ``tokenizer`` has the exported chat template."""
    system = facts.system.most_common if isinstance(facts.system, SystemPrompts) else None
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": QUESTION})
    listed = "[\n" + "".join(f"    {message!r},\n" for message in messages) + "]"
    place = facts.repo or PLACE
    written = _rendered(messages, tokenizer)
    with_peft = (
        "The adapter is loaded on top of its base model, which needs `peft`." if facts.is_adapter else ""
    )
    if facts.is_adapter and facts.plan.recipe.model.quantization is not None:
        with_peft += (
            " It was trained on 4-bit weights: on other weights, such as those that this program loads, its "
            "replies differ from those that were measured."
        )
    program = verbatim(LOADING.format(place=place, messages=listed), "python")
    return section("How to use it", with_peft, program, *written)


def _rendered(messages: list[dict[str, str]], tokenizer: Any | None) -> list[str]:
    """The exact text of the input, or why it cannot be shown."""
    if tokenizer is None:
        return ["The tokenizer of the run was removed, so the rendered text cannot be shown here."]
    try:
        text = render_template(tokenizer, messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise UserError(f"the chat template fails on {messages}: {error}") from error
    return [
        "The chat template renders them as exactly this text, which ends where the reply begins:",
        verbatim(text),
    ]


def limits_section(facts: CardFacts) -> str:
    """What the model is for, and its limits."""
    data = facts.plan.recipe.data
    lines = [
        "It continues conversations like its training conversations; nothing else was measured.",
        "It does not replace a professional: not for a diagnosis, a treatment or help in a crisis.",
        "It states falsehoods fluently, and has the biases of its base model and of its data.",
        f"Rows had {data.seq_len:,} tokens: longer conversations than that were not seen in training.",
    ]
    if data.pii != "mask":
        lines.append("It may repeat passages of its training conversations, PII included.")
    if facts.base_model.license == "gemma":
        lines.append(
            "Gemma is provided under and subject to the Gemma Terms of Use found at "
            f"{GEMMA_TERMS}, and so is a model derived from it; its prohibited uses are prohibited here too."
        )
    return section("Intended use and limits", bullets(lines))


def reproduction_section(facts: CardFacts) -> str:
    """Recipe, plan digest and versions."""
    plan = facts.plan
    rows = [
        ("gemfit", plan.versions.get("gemfit", "not recorded")),
        ("plan digest", facts.checkpoint.plan_digest),
        ("pack fingerprint", plan.pack.fingerprint),
        ("checkpoint", f"step {facts.checkpoint.step:,}, attempt {facts.checkpoint.attempt}"),
    ]
    recipe: dict[str, Any] = _without_folders(plan.recipe.model_dump(mode="json", exclude_none=True))
    return section(
        "Reproduction",
        key_values(rows),
        "`gemfit run recipe.yaml` with this recipe and the same data trains the same rows in the same order, "
        "on any number of ranks. Absolute paths are shortened to their last component.",
        verbatim(_yaml(recipe), "yaml"),
    )


def _yaml(value: dict[str, Any]) -> str:
    stream = StringIO()
    YAML().dump(value, stream)
    return stream.getvalue()


def _without_folders(value: Any) -> Any:
    """``value`` with absolute paths shortened to their last component: a card is public."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"(~|/|\./|\.\./)[^\n]*/[^\n/]+/?", value):
        return value.rstrip("/").rpartition("/")[2]
    return value
