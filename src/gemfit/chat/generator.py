"""Streamed generation with a KV cache that is kept between turns.

The cache is reused as long as the tokens of the conversation only grow; after anything else the next
reply prefills it from the start. Costs the cache of the longest conversation.
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
    """Decoding settings."""

    temperature: float
    """0: greedy decoding."""
    max_new_tokens: int


class Reply(NamedTuple):
    """A generated reply, with token counts."""

    text: str
    tokens: int
    read: int
    """Prefilled tokens of the prompt: those that the cache did not have."""
    interrupted: bool
    stopped: bool
    """Whether its last token was a stop token."""


class ReplyGenerator:
    """A model and its KV cache of the current conversation."""

    def __init__(self, loaded: LoadedModel, settings: ReplySettings) -> None:
        context = int(loaded.model.config.get_text_config(decoder=True).max_position_embeddings)
        if settings.max_new_tokens >= context:
            raise UserError(
                f"--max-new-tokens {settings.max_new_tokens} leaves no room for a message: "
                f"the model's context has {context:,} tokens"
            )
        self.loaded, self.settings = loaded, settings
        self.room = context - settings.max_new_tokens
        """Tokens of a prompt that leave space for the longest reply."""
        self._cache: DynamicCache | None = None
        self._read: list[int] = []
        """Tokens in the cache."""

    def length(self, messages: Sequence[SampleMessage]) -> int:
        """Tokens of ``messages`` as a prompt."""
        return len(prompt_ids(self.loaded.tokenizer, messages))

    def reply(self, messages: Sequence[SampleMessage], write: Write) -> Reply:
        """The next assistant message; ``write`` gets it as it is generated. Ctrl-C interrupts it."""
        model, tokenizer = self.loaded
        prompt = prompt_ids(tokenizer, messages)
        cache, cached = self._reusable_cache(prompt)
        streamer = _Streamer(tokenizer, write, tuple(model.generation_config.stop_strings or ()))
        with _interruptible() as interrupt:
            output = model.generate(
                input_ids=torch.tensor([prompt], device=model.device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
                past_key_values=cache,
                max_new_tokens=self.settings.max_new_tokens,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([interrupt]),
                tokenizer=tokenizer,  # for stop strings of a generation config
                **_sampling(self.settings.temperature),
            )[0].tolist()
        # The last token was generated, and is not in the cache.
        self._cache, self._read = cache, output[:-1]
        stops = model.generation_config.eos_token_id
        return Reply(
            streamer.text.strip(),
            tokens=len(output) - len(prompt),
            read=len(prompt) - cached,
            interrupted=interrupt.requested,
            stopped=output[-1] in (stops if isinstance(stops, list) else [stops]),
        )

    def _reusable_cache(self, prompt: list[int]) -> tuple[DynamicCache, int]:
        """A cache for ``prompt``, and how many of its tokens are in there."""
        tokens, cache = self._read, self._cache
        self._cache, self._read = None, []  # a reply that fails leaves a cache of unknown content
        if cache is not None and len(tokens) < len(prompt) and prompt[: len(tokens)] == tokens:
            return cache, len(tokens)
        return DynamicCache(config=self.loaded.model.config), 0


class _Streamer(TextStreamer):
    """Streams the text up to the first stop string."""

    def __init__(self, tokenizer: Any, write: Write, stops: tuple[str, ...]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write, self._stops = write, stops
        self._generated, self._written = "", 0
        self._ended = False

    @property
    def text(self) -> str:
        """The text that was written."""
        return self._generated[: self._written]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self._ended:
            return
        self._generated += text
        places = [place for stop in self._stops if (place := self._generated.find(stop)) >= 0]
        self._ended = bool(places)
        end = min(places) if places else len(self._generated) - (0 if stream_end else self._held_back())
        self._write(self._generated[self._written : end])
        self._written = max(self._written, end)

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for count in range(min(longest, len(self._generated)), 0, -1):
            if any(stop.startswith(self._generated[-count:]) for stop in self._stops):
                return count
        return 0


class _Interrupt(StoppingCriteria):
    """Stopping criterion that Ctrl-C sets."""

    requested = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self.requested, device=input_ids.device, dtype=torch.bool)


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Inside, the first Ctrl-C sets the criterion; the next one is a ``KeyboardInterrupt`` again."""
    interrupt = _Interrupt()

    def request(number: int, frame: Any) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    before = signal.signal(signal.SIGINT, request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _sampling(temperature: float) -> dict[str, Any]:
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature}
    # The sampling settings of a generation config have no effect then.
    return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
