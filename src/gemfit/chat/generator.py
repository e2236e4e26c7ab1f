"""One reply at a time, streamed; what the model has read already is not read again.

Keys and values of a conversation stay in memory between turns, as long as its tokens only grow; after
anything else the next reply reads it from the start. Costs the cache of the longest conversation.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList, TextStreamer

from gemfit.errors import UserError
from gemfit.evaluate.generation import prompt_ids
from gemfit.evaluate.models import LoadedModel
from gemfit.schemas.evaluation import SampleMessage

Write = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplySettings:
    """How the model speaks."""

    temperature: float
    """0 takes the likeliest token each time."""
    max_new_tokens: int


class Reply(NamedTuple):
    """What the model said."""

    text: str
    tokens: int
    read: int
    """Tokens of the prompt that were read for it: those that the cache did not have."""
    interrupted: bool
    stopped: bool
    """Whether its last token was one that ends a reply."""


class ReplyGenerator:
    """A model, and what it has read of the conversation at hand."""

    def __init__(self, opened: LoadedModel, manner: ReplySettings) -> None:
        context = int(opened.model.config.get_text_config(decoder=True).max_position_embeddings)
        if manner.max_new_tokens >= context:
            raise UserError(
                f"--max-new-tokens {manner.max_new_tokens} leaves no room for a message: the model's context "
                f"has {context:,} tokens"
            )
        self.opened, self.manner = opened, manner
        self.room = context - manner.max_new_tokens
        """Tokens of a prompt that leave space for the longest reply."""
        self._cache: DynamicCache | None = None
        self._read: list[int] = []
        """The tokens that the cache holds."""

    def length(self, messages: Sequence[SampleMessage]) -> int:
        """Tokens of ``messages`` as a prompt."""
        return len(prompt_ids(self.opened.tokenizer, messages))

    def reply(self, messages: Sequence[SampleMessage], write: Write) -> Reply:
        """What the assistant says next; ``write`` gets it piece by piece. Ctrl-C ends it where it is."""
        model, tokenizer = self.opened
        prompt = prompt_ids(tokenizer, messages)
        cache, kept = self._known(prompt)
        streamer = _Streamer(tokenizer, write, tuple(model.generation_config.stop_strings or ()))
        with _interruptible() as interrupt:
            output = model.generate(
                input_ids=torch.tensor([prompt], device=model.device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
                past_key_values=cache,
                max_new_tokens=self.manner.max_new_tokens,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([interrupt]),
                tokenizer=tokenizer,  # a generation config may stop at words
                **_sampling(self.manner.temperature),
            )[0].tolist()
        # The last token was said, and not read.
        self._cache, self._read = cache, output[:-1]
        stops = model.generation_config.eos_token_id
        return Reply(
            streamer.text.strip(),
            tokens=len(output) - len(prompt),
            read=len(prompt) - kept,
            interrupted=interrupt.asked,
            stopped=output[-1] in (stops if isinstance(stops, list) else [stops]),
        )

    def _known(self, prompt: list[int]) -> tuple[DynamicCache, int]:
        """A cache for ``prompt``, and how many of its tokens are in there."""
        known, cache = self._read, self._cache
        self._cache, self._read = None, []  # a reply that fails leaves a cache of unknown content
        if cache is not None and len(known) < len(prompt) and prompt[: len(known)] == known:
            return cache, len(known)
        return DynamicCache(config=self.opened.model.config), 0


class _Streamer(TextStreamer):
    """Passes on what is said up to the words that end a reply."""

    def __init__(self, tokenizer: Any, write: Write, stops: tuple[str, ...]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write, self._stops = write, stops
        self._said, self._written = "", 0
        self._ended = False

    @property
    def text(self) -> str:
        """All that was passed on."""
        return self._said[: self._written]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self._ended:
            return
        self._said += text
        places = [place for stop in self._stops if (place := self._said.find(stop)) >= 0]
        self._ended = bool(places)
        end = min(places) if places else len(self._said) - (0 if stream_end else self._held())
        self._write(self._said[self._written : end])
        self._written = max(self._written, end)

    def _held(self) -> int:
        """Characters at the end that may be the beginning of a stop."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for count in range(min(longest, len(self._said)), 0, -1):
            if any(stop.startswith(self._said[-count:]) for stop in self._stops):
                return count
        return 0


class _Interrupt(StoppingCriteria):
    """Whether the person has asked the reply to end."""

    asked = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self.asked, device=input_ids.device, dtype=torch.bool)


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Inside, the first Ctrl-C only asks; the next one is a ``KeyboardInterrupt`` again."""
    interrupt = _Interrupt()

    def ask(number: int, frame: Any) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _sampling(temperature: float) -> dict[str, Any]:
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature}
    # What a generation config says about sampling has no meaning then.
    return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
