"""Data in a model card: splits, sources, token accounting, duplicates, PII and digests."""

from __future__ import annotations

from collections.abc import Iterable

from gemfit.evaluate.system_prompt import SystemPrompts
from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.header import hub_datasets, short_source
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.summary.markdown import code, key_values, render, section, table, verbatim
from gemfit.summary.pack import filtered, split_table


def data_section(facts: CardFacts) -> str:
    """Splits, token flow, PII, system messages; or that the pack was removed."""
    pack, data = facts.pack, facts.plan.recipe.data
    if pack is None:
        return section("Data", "The pack of this training was removed, so its statistics are unknown.")
    return section(
        "Data",
        _availability(facts),
        render(split_table(pack)),
        _roles(pack),
        section("Validation split", _validation(data), level=3),
        section("Token flow", _flow(pack), level=3),
        section("Filtered", key_values(filtered(pack)), level=3),
        section("PII", _pii(pack, data), level=3),
        section("System message", _system(facts.system), level=3),
        section("Digests", key_values(_digests(pack)), level=3),
    )


def _availability(facts: CardFacts) -> str:
    if names := hub_datasets(facts):
        return f"On the Hugging Face Hub: {', '.join(map(code, names))}."
    return "The conversations are not published with the model."


def _roles(pack: PackManifest) -> str:
    rows = [(role, f"{tokens:,}") for role, tokens in pack.roles.items() if tokens]
    return table(("role", "tokens"), rows, numbers=("tokens",)) if rows else ""


def _validation(data: DataRecipe) -> str:
    if data.validation:
        named = ", ".join(source.title for source in data.validation)
        return (
            f"A split of its own ({named}); training conversations that are duplicates or near-duplicates "
            "of one in it were left out."
        )
    if not data.validation_share:
        return "None."
    near = {
        "group": "near-duplicates are in the same split",
        "drop": "near-duplicates were dropped",
        "ignore": "near-duplicates were not searched, so the training split may have some",
    }[data.near_duplicates]
    return (
        f"{data.validation_share:.2%} of the conversations, selected by a hash of their content, so that a "
        f"conversation is in the same split in every run; exact duplicates count once; {near}."
    )


def _flow(pack: PackManifest) -> str:
    if not pack.flow:
        return "Not counted by the version that built the pack."
    total = pack.flow["total"]
    counted: dict[str, int] = total.model_dump()
    shown = [key for key, count in counted.items() if count or key in ("tokens_read", "packed")]
    names = tuple(key.replace("_", " ") for key in shown)
    rows = [
        (short_source(source), *(f"{getattr(flow, key):,}" for key in shown))
        for source, flow in pack.flow.items()
    ]
    return table(("source", *names), rows, numbers=names)


def _pii(pack: PackManifest, data: DataRecipe) -> str:
    if data.pii == "ignore":
        return "Not searched."
    treated = {
        "count": "Matches were counted and left in: the model may repeat them.",
        "mask": "Matches were replaced by placeholders such as `[EMAIL]` before training.",
    }[data.pii]
    found = [(kind, f"{count:,}") for kind, count in pack.pii.items()]
    searched = "E-mail addresses, phone, payment card and bank account numbers were searched"
    if not found:
        return f"{searched}; none was found. Names and places were not searched."
    return "\n\n".join(
        [
            f"{searched}. {treated} Names and places were not searched.",
            table(("kind", "found"), found, numbers=("found",)),
        ]
    )


def _system(system: SystemPrompts | str) -> str:
    if isinstance(system, str):
        return "Not counted: the data was moved, or is on the Hub."
    counted = f"{'the first ' if system.is_sample else ''}{system.conversations:,} conversations"
    if system.most_common is None:
        return f"None of {counted} starts with one."
    share = f"{system.with_system:,} of {counted} start with a system message"
    kind = "This one" if system.dominant else "There is no dominant one; the most frequent"
    return "\n\n".join(
        [
            f"{share}, {system.distinct:,} distinct. {kind} starts {system.count:,} of them:",
            verbatim(system.most_common),
        ]
    )


def _digests(pack: PackManifest) -> Iterable[tuple[str, str]]:
    yield "pack", pack.fingerprint
    yield "tokenizer and template", pack.tokenizer_digest
    for entry in pack.inputs:
        content = f"commit {entry.commit}" if entry.commit else entry.xxh3
        yield short_source(entry.path), content or "streamed, without a digest"
