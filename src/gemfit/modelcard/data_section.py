"""What a checkpoint was trained on: figures of the pack, what was left out and why, where it came from."""

from __future__ import annotations

from collections.abc import Iterable

from gemfit.evaluate.system_prompt import SystemPrompts
from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.header import hub_datasets, short_source
from gemfit.modelcard.markdown import code, facts, section, table, verbatim
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.recipe import DataRecipe


def data_section(told: CardFacts) -> str:
    """Splits, sources, losses, personal data, system messages; or that the pack is gone."""
    pack, data = told.pack, told.plan.recipe.data
    if pack is None:
        return section("Data", "The pack that this was trained on is gone, so its statistics are not known.")
    return section(
        "Data",
        _availability(told),
        _splits(pack),
        section("Held-out split", _held_out(data), level=3),
        section("What became of every token", _flow(pack), level=3),
        section("Read, and set aside", facts(_losses(pack)), level=3),
        section("Personal data", _personal(pack, data), level=3),
        section("System message", _system(told.system), level=3),
        section("Digests", facts(_digests(pack)), level=3),
    )


def _availability(told: CardFacts) -> str:
    if names := hub_datasets(told):
        return f"On the Hugging Face Hub: {', '.join(map(code, names))}."
    return "The conversations are not published with the model."


def _splits(pack: PackManifest) -> str:
    head = ("split", "conversations", "rows", "pieces", "tokens", "trained tokens", "fill")
    rows = [
        (
            name,
            *(f"{n:,}" for n in (s.conversations, s.rows, s.documents, s.tokens, s.trained_tokens)),
            f"{s.fill(pack.seq_len):.2%}",
        )
        for name, s in pack.splits.items()
    ]
    roles = [(role, f"{tokens:,}") for role, tokens in pack.roles.items() if tokens]
    parts = [table(head, rows, numbers=head[1:])]
    parts += [table(("role", "tokens"), roles, numbers=("tokens",))] if roles else []
    return "\n\n".join(parts)


def _held_out(data: DataRecipe) -> str:
    if not data.validation_share:
        return "Nothing was held out."
    near = {
        "group": "near copies fall on the same side",
        "drop": "near copies were left out",
        "ignore": "near copies were not looked for, so a held-out conversation may have one that was trained",
    }[data.near_duplicates]
    return (
        f"{data.validation_share:.2%} of the conversations, chosen by a hash of their content, so that a "
        f"conversation is on the same side in every run; exact copies count once; {near}."
    )


def _flow(pack: PackManifest) -> str:
    if not pack.flow:
        return "Not counted by the version that packed it."
    total = pack.flow["total"]
    counted: dict[str, int] = total.model_dump()
    shown = [key for key, count in counted.items() if count or key in ("tokens_read", "packed")]
    names = tuple(key.replace("_", " ") for key in shown)
    rows = [
        (short_source(source), *(f"{getattr(flow, key):,}" for key in shown))
        for source, flow in pack.flow.items()
    ]
    return table(("source", *names), rows, numbers=names)


def _losses(pack: PackManifest) -> Iterable[tuple[str, str]]:
    counted: dict[str, int] = pack.losses.model_dump()
    for name, count in counted.items():
        if count or name == "lines_read":
            yield name.replace("_", " "), f"{count:,}"


def _personal(pack: PackManifest, data: DataRecipe) -> str:
    if data.pii == "ignore":
        return "Not looked for."
    treated = {
        "count": "They were counted and left in: the model may repeat them.",
        "mask": "Each was replaced by a mark such as `[EMAIL]` before training.",
    }[data.pii]
    found = [(kind, f"{count:,}") for kind, count in pack.pii.items()]
    looked = "E-mail addresses, phone, card and bank account numbers were looked for"
    if not found:
        return f"{looked}, and none was found. Names and places were not looked for."
    return "\n\n".join(
        [
            f"{looked}. {treated} Names and places were not looked for.",
            table(("kind", "found"), found, numbers=("found",)),
        ]
    )


def _system(system: SystemPrompts | str) -> str:
    if isinstance(system, str):
        return "Not counted: the data is not where it was, or is on a hub."
    looked_at = f"{'the first ' if system.is_sample else ''}{system.conversations:,} conversations"
    if system.most_common is None:
        return f"None of {looked_at} begins with one."
    counted = f"{system.with_system:,} of {looked_at} begin with a system message"
    kind = "This one" if system.dominant else "There is no dominant one; the most frequent"
    return "\n\n".join(
        [
            f"{counted}, {system.distinct:,} different ones. {kind} begins {system.count:,} of them:",
            verbatim(system.most_common),
        ]
    )


def _digests(pack: PackManifest) -> Iterable[tuple[str, str]]:
    yield "pack", pack.fingerprint
    yield "tokenizer and template", pack.tokenizer_digest
    for entry in pack.inputs:
        yield short_source(entry.path), entry.blake2b or "a stream of the Hub, which has no digest"
