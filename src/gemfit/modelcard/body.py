"""The body of a card: its sections in order."""

from __future__ import annotations

from typing import Any

from gemfit.modelcard.audit_section import audit_section
from gemfit.modelcard.data_section import data_section
from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.header import data_name
from gemfit.modelcard.markdown import facts, section, spread, table
from gemfit.modelcard.results_section import results_section
from gemfit.modelcard.training_section import hardware_section, training_section
from gemfit.modelcard.usage_section import limits_section, reproduction_section, use_section


def body(told: CardFacts, tokenizer: Any | None) -> str:
    """All sections; ``tokenizer`` has the chat template that is exported."""
    return "\n\n".join(
        [
            section(told.name, _summary(told), level=1),
            *([section("Notes of the publisher", told.notes)] if told.notes else []),
            section("Base model", facts(_origin(told))),
            use_section(told, tokenizer),
            limits_section(told),
            results_section(told),
            _curve(told),
            audit_section(told),
            data_section(told),
            training_section(told),
            hardware_section(told),
            reproduction_section(told),
        ]
    )


def _summary(told: CardFacts) -> str:
    model, pack = told.plan.recipe.model, told.pack
    count = f"{pack.splits['train'].conversations:,} conversations" if pack else "conversations"
    how = "by LoRA" if model.lora else "with all its parameters"
    done = "trained from" if told.origin.is_scratch else "fine-tuned from"
    form = " This repository holds the adapter alone." if told.is_adapter else ""
    return (
        f"A language model for conversations, {done} {told.origin.name} {how} on {count} of "
        f"{data_name(told)}, in {told.step:,} optimizer steps.{form} Every figure below was read from the "
        "records of that training; what was not measured is said to be so."
    )


def _origin(told: CardFacts) -> list[tuple[str, str]]:
    origin = told.origin
    license_id = origin.license or "unknown"
    rows = [
        ("base model", origin.name),
        ("revision", origin.revision or "does not apply to it"),
        ("licence", f"{license_id}: {origin.license_because}"),
        ("language", ", ".join(told.stated.language) or "not stated"),
    ]
    return rows[2:] if origin.is_scratch else rows


def _curve(told: CardFacts) -> str:
    steps = told.history.steps
    rows = [(f"{r.step:,}", f"{r.loss:.4f}", f"{r.learning_rate:g}") for r in spread(steps)]
    return section(
        "Loss while training",
        table(
            ("step", "training loss", "learning rate"),
            rows,
            numbers=("step", "training loss", "learning rate"),
        ),
        f"{len(rows)} of {len(steps):,} recorded steps, in nats per trained token of one step. "
        "`gemfit report` draws all of them.",
    )
