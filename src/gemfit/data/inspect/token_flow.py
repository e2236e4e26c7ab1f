"""Token accounting of a pack: flow by source from the table of conversations, compared with the manifest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import slices
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
    """The flow of tokens counted from the table of conversations and the rows.

    repeated: (sources,), repeated tokens in rows.
    """
    names = [source.name for source in pack.manifest.sources]
    flows = [_flow(pack, pack.conversations.source == index, repeated[index]) for index in range(len(names))]
    total = _flow(pack, np.ones(len(pack.conversations), np.bool_), repeated.sum())
    return dict(zip(names, flows, strict=True)) | {"total": total}


def unbalanced_sources(flow: dict[str, TokenFlow]) -> Iterator[str]:
    """Sources whose tokens in and tokens out differ."""
    for name, one in flow.items():
        if one.balance:
            yield (
                f"flow.{name}: read, repeated and oversampled tokens are {tokens_in(one):,}, "
                f"but packed and lost ones {tokens_in(one) - one.balance:,}"
            )


def wrong_totals(flow: dict[str, TokenFlow]) -> Iterator[str]:
    """Kinds of tokens whose sources do not add up to the total."""
    for kind in TokenFlow.model_fields:
        total = getattr(flow["total"], kind)
        parts = sum(getattr(one, kind) for name, one in flow.items() if name != "total")
        if parts != total:
            yield f"flow.total.{kind} is {total:,}, but its sources add up to {parts:,}"


def manifest_differences(manifest: dict[str, TokenFlow], counted: dict[str, TokenFlow]) -> Iterator[str]:
    """Figures of the manifest that differ from the counted ones."""
    for name, one in counted.items():
        if name not in manifest:
            yield f"flow.{name} is not in the manifest"
            continue
        for kind, number in one.model_dump().items():
            if (said := getattr(manifest[name], kind)) != number:
                yield f"flow.{name}.{kind} is {said:,} in the manifest, but {number:,} are counted"


def tokens_in(flow: TokenFlow) -> int:
    """Tokens read, repeated and oversampled."""
    return flow.tokens_read + flow.repeated + flow.oversampled


def _flow(pack: Pack, chosen: NDArray[np.bool_], repeated: np.int64) -> TokenFlow:
    conversations = pack.conversations
    kept = chosen & conversations.has_disposition("kept")
    # An untrained conversation has all its tokens in these two columns.
    with_losses = kept | (chosen & conversations.has_disposition("untrained"))
    tokens, truncated, untrained, copies = (
        conversations.tokens,
        conversations.truncated,
        conversations.untrained,
        conversations.copies,
    )
    packed = oversampled = 0
    for here in slices(len(conversations)):
        own = kept[here]
        bodies = (tokens[here].astype(np.int64) - truncated[here] - untrained[here])[own]
        packed += int((copies[here][own] * bodies).sum())
        oversampled += int(((copies[here][own] - 1) * bodies).sum())
    lost = {
        name: _sum(tokens[chosen & conversations.has_disposition(name)]) for name in WHOLE_CONVERSATION_LOSSES
    }
    return TokenFlow(
        tokens_read=_sum(tokens[chosen]),
        repeated=int(repeated),
        oversampled=oversampled,
        packed=packed + int(repeated),
        **lost,
        truncated=_sum(truncated[with_losses]),
        untrained=_sum(untrained[with_losses]),
    )


def _sum(tokens: NDArray[np.int32]) -> int:
    return int(tokens.sum(dtype=np.int64))
