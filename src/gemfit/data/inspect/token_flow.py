"""The sums of a pack, from its conversations and from its manifest, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import stretches
from gemfit.data.inspect.pack_files import Pack
from gemfit.schemas.manifest import TokenFlow

LOSSES = (
    "duplicate",
    "near_duplicate",
    "left_by_weight",
    "beyond_max_rows",
    "overlong",
    "truncated",
    "untrained",
)
"""Reasons why tokens are not in the rows, in the order of ``TokenFlow``."""
WHOLE_CONVERSATION_LOSSES = LOSSES[:5]
"""Dispositions of conversations of which nothing is packed; their tokens are counted under these."""


def flow_of_conversations(pack: Pack, repeated: NDArray[np.int64]) -> dict[str, TokenFlow]:
    """The flow of tokens as the table of conversations and the rows have it.

    repeated: (sources,), tokens in rows that are repeated context.
    """
    names = [source.name for source in pack.manifest.sources]
    flows = [_flow(pack, pack.conversations.source == index, repeated[index]) for index in range(len(names))]
    total = _flow(pack, np.ones(len(pack.conversations), np.bool_), repeated.sum())
    return dict(zip(names, flows, strict=True)) | {"total": total}


def unbalanced(flow: dict[str, TokenFlow]) -> Iterator[str]:
    """Sources of which more or fewer tokens came out than went in."""
    for name, one in flow.items():
        if one.balance:
            yield (
                f"flow.{name}: read, repeated and oversampled tokens are {in_and_again(one):,}, "
                f"but packed and lost ones {in_and_again(one) - one.balance:,}"
            )


def untotalled(flow: dict[str, TokenFlow]) -> Iterator[str]:
    """Kinds of tokens whose sources do not add up to the total."""
    for kind in TokenFlow.model_fields:
        total = getattr(flow["total"], kind)
        parts = sum(getattr(one, kind) for name, one in flow.items() if name != "total")
        if parts != total:
            yield f"flow.total.{kind} is {total:,}, but its sources add up to {parts:,}"


def differing(manifest: dict[str, TokenFlow], counted: dict[str, TokenFlow]) -> Iterator[str]:
    """Figures of the manifest that are not what is counted."""
    for name, one in counted.items():
        if name not in manifest:
            yield f"flow.{name} is not in the manifest"
            continue
        for kind, number in one.model_dump().items():
            if (said := getattr(manifest[name], kind)) != number:
                yield f"flow.{name}.{kind} is {said:,} in the manifest, but {number:,} are counted"


def in_and_again(flow: TokenFlow) -> int:
    """Tokens that went in, and those that were written again."""
    return flow.tokens_read + flow.repeated + flow.oversampled


def _flow(pack: Pack, chosen: NDArray[np.bool_], repeated: np.int64) -> TokenFlow:
    talks = pack.conversations
    kept = chosen & talks.has_disposition("kept")
    # Of a conversation that is left out as untrained, all tokens are in these two columns.
    settled = kept | (chosen & talks.has_disposition("untrained"))
    tokens, truncated, untrained, copies = talks.tokens, talks.truncated, talks.untrained, talks.copies
    placed = again = 0
    for here in stretches(len(talks)):
        own = kept[here]
        bodies = (tokens[here].astype(np.int64) - truncated[here] - untrained[here])[own]
        placed += int((copies[here][own] * bodies).sum())
        again += int(((copies[here][own] - 1) * bodies).sum())
    lost = {name: _sum(tokens[chosen & talks.has_disposition(name)]) for name in WHOLE_CONVERSATION_LOSSES}
    return TokenFlow(
        tokens_read=_sum(tokens[chosen]),
        repeated=int(repeated),
        oversampled=again,
        packed=placed + int(repeated),
        **lost,
        truncated=_sum(truncated[settled]),
        untrained=_sum(untrained[settled]),
    )


def _sum(tokens: NDArray[np.int32]) -> int:
    return int(tokens.sum(dtype=np.int64))
