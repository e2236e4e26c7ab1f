"""Batched generation whose replies do not depend on the batch.

Prompts of about the same length share a batch, padded on the left. Sampling draws one number per token from
a generator seeded by the conversation, so neither the batch nor the order changes a reply. Greedy
replies are equal up to the rounding of matrix products, which depends on their shapes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gemfit.data.render.render_template import render_template
from gemfit.errors import UserError
from gemfit.evaluate.models import LoadedModel
from gemfit.schemas.evaluation import SampleMessage


def generate_replies(
    loaded: LoadedModel,
    conversations: Sequence[Sequence[SampleMessage]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> list[str]:
    """The next assistant message of each conversation.

    ``temperature`` 0 is greedy decoding. Otherwise the draws depend on ``seed``, on the messages,
    and on how often the same messages came before, so that a repeated question is drawn anew.
    ``progress`` gets the number of replies that a batch has added. ``UserError`` for messages that the chat
    template refuses.
    """
    prompts = [prompt_ids(loaded.tokenizer, messages) for messages in conversations]
    draws = _draws(conversations, seed, max_new_tokens)
    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = [prompts[place] for place in places]
        texts = _generate(loaded, batch, draws[places], max_new_tokens, temperature)
        for place, text in zip(places, texts, strict=True):
            found[place] = text
        if progress is not None:
            progress(len(places))
    return found


def prompt_ids(tokenizer: Any, messages: Sequence[SampleMessage]) -> list[int]:
    """Prompt tokens up to the generation prompt of the assistant."""
    plain = [message.model_dump() for message in messages]
    try:
        prompt = render_template(tokenizer, plain, add_generation_prompt=True, return_dict=True)
    except TemplateError as error:
        raise UserError(f"the chat template of the run refuses these messages: {error}: {plain}") from None
    return list(prompt["input_ids"])


class SeededSampling(LogitsProcessor):
    """Logits processor that keeps the one token of each row that the row's random number selects."""

    def __init__(self, warpers: LogitsProcessorList, draws: torch.Tensor, prompt_length: int) -> None:
        self._warpers, self._draws, self._prompt_length = warpers, draws, prompt_length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """``scores``: (batch, vocabulary)."""
        cumulative = self._warpers(input_ids, scores.float()).softmax(-1).double().cumsum(-1)
        drawn = self._draws[:, input_ids.shape[1] - self._prompt_length, None] * cumulative[:, -1:]
        # The first token whose cumulative probability exceeds the number: one of no weight is never taken.
        chosen = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def _generate(
    loaded: LoadedModel,
    prompts: list[list[int]],
    draws: NDArray[np.float64],
    max_new_tokens: int,
    temperature: float,
) -> list[str]:
    model, tokenizer = loaded
    ids, mask = _padded(prompts, _pad(model, tokenizer), model.device)
    processors = LogitsProcessorList()
    if temperature > 0:
        numbers = torch.from_numpy(draws).to(model.device)
        processors.append(SeededSampling(_warpers(model, temperature), numbers, ids.shape[1]))
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            logits_processor=processors,
            # The numbers are drawn above; the sampling settings of a generation config have no effect.
            **{"do_sample": False, "temperature": None, "top_k": None, "top_p": None},
            tokenizer=tokenizer,  # for stop strings of a generation config
        )
    return [_text(model, tokenizer, tokens) for tokens in output[:, ids.shape[1] :].tolist()]


def _warpers(model: Any, temperature: float) -> LogitsProcessorList:
    """Temperature, and top-k and top-p of the model's generation config."""
    settings, warpers = model.generation_config, LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None and settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return warpers


def _padded(prompts: list[list[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, each (batch, tokens), padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, (torch.arange(longest, device=device) >= longest - lengths[:, None]).long()


def _text(model: Any, tokenizer: Any, tokens: list[int]) -> str:
    """The generated text up to the first stop token or string, without it."""
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or ())
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    text: str = tokenizer.decode(tokens[:end], skip_special_tokens=True)
    for stop in model.generation_config.stop_strings or ():
        text = text.partition(stop)[0]
    return text.strip()


def _pad(model: Any, tokenizer: Any) -> int:
    """Masked, so any id will do."""
    pad = model.generation_config.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)


def _draws(conversations: Sequence[Sequence[SampleMessage]], seed: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1): (conversations, count)."""
    return np.array([list(_numbers(key, seed, count)) for key in _keys(conversations)]).reshape(-1, count)


def _numbers(key: str, seed: int, count: int) -> NDArray[np.float64]:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(digest)]).random(count)


def _keys(conversations: Sequence[Sequence[SampleMessage]]) -> Iterator[str]:
    """A unique key for each conversation, repetitions included."""
    seen: Counter[str] = Counter()
    for messages in conversations:
        text = "\x00".join(f"{message.role}\x01{message.content}" for message in messages)
        seen[text] += 1
        yield f"{seen[text]}\x02{text}"
