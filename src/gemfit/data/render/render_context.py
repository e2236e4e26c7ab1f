"""Render context: tokenizer, format and settings to render a block, made once and shared by all workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gemfit.data.dedup.minhash import NUM_HASHES
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.jsonl.line_group import CODES
from gemfit.data.jsonl.line_settings import DEFAULTS, ROLES, LineSettings
from gemfit.data.jsonl.message_batch import Messages
from gemfit.data.render.assemble_ids import ControlIds, make_control_ids
from gemfit.data.render.opaque_content import looks_inside
from gemfit.data.render.renderer import Renderer, make_renderer
from gemfit.data.render.template_segments import check_template
from gemfit.data.tokenize import Encoder
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe


@dataclass(frozen=True, slots=True, eq=False)
class RenderContext:
    """The tokenizer, format and settings that a tokenized block depends on."""

    renderer: Renderer
    encoder: Encoder
    control: ControlIds
    overlong: str
    seq_len: int
    pii: Literal["ignore", "count", "mask"]
    """Handling of PII: `ignore`, `count` or `mask`."""
    num_hashes: int
    """Values per MinHash signature; 0 if near-duplicates are ignored."""
    line_settings: LineSettings = DEFAULTS
    _followed: dict[bytes, bool] = field(default_factory=dict)
    """By roles of a conversation: whether the renderer equals the template for all contents."""

    def passes(self, messages: Messages) -> bool:
        """Return True only if ``check`` passes every conversation; a fast check of all of them."""
        if not len(messages.last):
            return True
        firsts = np.concatenate([np.zeros(1, np.int64), messages.last[:-1]])
        if not np.logical_or.reduceat(self._trainable(messages), firsts).all():
            return False
        if not self.renderer.templated:
            return True
        roles, edges = messages.roles.tobytes(), zip(firsts.tolist(), messages.last.tolist(), strict=True)
        return all(map(self._is_followed, {roles[start:stop] for start, stop in edges}))

    def check(self, conversation: Conversation) -> None:
        """Raise ``UserError`` for a conversation that the format cannot express or that trains nothing."""
        roles = bytes(CODES[message.role] for message in conversation.messages)
        quick = self.renderer.templated and not conversation.tools and self._is_followed(roles)
        self.renderer.check(conversation, follow=not quick)

    def _trainable(self, messages: Messages) -> NDArray[np.bool_]:
        if self.renderer.loss_on == "assistant":
            found = messages.roles == CODES["assistant"]
        else:
            found = messages.roles != CODES["tool"]
        return found if messages.untrained is None else found & ~messages.untrained

    def _is_followed(self, roles: bytes) -> bool:
        """Whether the template and the renderer agree for these roles, whatever the contents are."""
        if roles not in self._followed:
            self._followed[roles] = self._follows([ROLES[role] for role in roles])
        return self._followed[roles]

    def _follows(self, roles: list[str]) -> bool:
        # Contents that show trimming and escaping.
        marks = tuple(Message(role, f" \n<mark{index}'&\"mark>\n ") for index, role in enumerate(roles))
        tokenizer = self.renderer.tokenizer
        try:
            check_template(tokenizer, self.renderer.segments, Conversation("", marks))
        except UserError:
            return False
        return not looks_inside(tokenizer, roles)


def make_render_context(tokenizer: Any, data: DataRecipe, encoder: Encoder) -> RenderContext:
    """Find the template segments of the format and encode them; call it before workers are forked."""
    renderer = make_renderer(tokenizer, data.format, data.eos, data.loss_on)
    return RenderContext(
        renderer,
        encoder,
        make_control_ids(renderer.segments, renderer.control, data.loss_on),
        data.overlong,
        data.seq_len,
        data.pii,
        NUM_HASHES.get(data.near_duplicates, 0),
        LineSettings.of(data),
    )
