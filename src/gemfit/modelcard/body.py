"""Body of a model card: its sections in order."""

from __future__ import annotations

from typing import Any

from gemfit.modelcard.audit_section import audit_section
from gemfit.modelcard.data_section import data_section
from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.header import data_name
from gemfit.modelcard.results_section import results_section
from gemfit.modelcard.training_section import hardware_section, training_section
from gemfit.modelcard.usage_section import limits_section, reproduction_section, use_section
from gemfit.summary.markdown import key_values, plain, section, spread, table


def body(facts: CardFacts, tokenizer: Any | None) -> str:
    """All sections; ``tokenizer`` has the chat template that is exported."""
    return "\n\n".join(
        [
            section(plain(facts.name), _summary(facts), level=1),
            *([section("Notes of the publisher", facts.notes)] if facts.notes else []),
            section("Base model", key_values(_base_model(facts))),
            use_section(facts, tokenizer),
            limits_section(facts),
            results_section(facts),
            _curve(facts),
            audit_section(facts),
            data_section(facts),
            training_section(facts),
            hardware_section(facts),
            reproduction_section(facts),
        ]
    )


def _summary(facts: CardFacts) -> str:
    model, pack = facts.plan.recipe.model, facts.pack
    count = f"{pack.splits['train'].conversations:,} conversations" if pack else "conversations"
    how = "by LoRA" if model.lora else "with all its parameters"
    done = "trained from" if facts.base_model.is_scratch else "fine-tuned from"
    form = " This repository holds the adapter alone." if facts.is_adapter else ""
    return (
        f"A language model for conversations, {done} {facts.base_model.name} {how} on {count} of "
        f"{plain(data_name(facts))}, in {facts.step:,} optimizer steps.{form} Every figure below was read "
        "from the records of that training; what was not measured is marked as such."
    )


def _base_model(facts: CardFacts) -> list[tuple[str, str]]:
    base = facts.base_model
    license_id = base.license or "unknown"
    rows = [
        ("base model", base.name),
        ("revision", base.revision or "not applicable"),
        ("licence", f"{license_id}: {base.license_because}"),
        ("language", ", ".join(facts.user.language) or "not stated"),
    ]
    return rows[2:] if base.is_scratch else rows


def _curve(facts: CardFacts) -> str:
    steps = facts.history.steps
    rows = [(f"{r.step:,}", f"{r.loss:.4f}", f"{r.learning_rate:g}") for r in spread(steps)]
    return section(
        "Training loss",
        table(
            ("step", "training loss", "learning rate"),
            rows,
            numbers=("step", "training loss", "learning rate"),
        ),
        f"{len(rows)} of {len(steps):,} recorded steps, in nats per trained token of the step. "
        "`gemfit report` plots all of them.",
    )
