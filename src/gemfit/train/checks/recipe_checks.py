"""Checks for common Gemma 3 fine-tuning mistakes, on a recipe's own tokenizer, data and model.

Without ``full`` the model is a small one of the same class and configuration, with random weights: the
checks are about how it is built and called, not about its weights. It costs seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from gemfit.data.document import IGNORED, Document, labels, token_ids
from gemfit.data.jsonl.conversation import Conversation, parse_messages
from gemfit.data.jsonl.inputs import all_lines
from gemfit.data.jsonl.line_parser import read_line
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.data.render.renderer import make_renderer, stop_ids
from gemfit.data.tokenize.tokenizer import load_tokenizer, pad_id, train_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.check import CheckResult, error, ok, warning
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.train.checks import selftest
from gemfit.train.model.attention_checks import check_gradient, check_in_use
from gemfit.train.model.build import base_architecture, load_model, prepare_for_training
from gemfit.train.model.liger import use_liger
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.sequence_group import ALONE

ABOUT = "recipe"
SAMPLE = 64
"""Conversations that are checked."""
SMALL = {
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
OWN = "gemfit's own example"
EXAMPLE = [
    {"role": "user", "content": "I cannot sleep before exams."},
    {"role": "assistant", "content": "What goes through your mind then?"},
    {"role": "user", "content": "That I know nothing."},
    {"role": "assistant", "content": "Let us list what you do know."},
]


def check_recipe(recipe: Recipe, device: torch.device, *, full: bool) -> Iterator[CheckResult]:
    """All checks of ``recipe``; data or a model that cannot be opened is a failed check, and the last one."""
    try:
        conversations = list(islice(_conversations(recipe), SAMPLE)) or [parse_messages(EXAMPLE, OWN)]
        tokenizer = _tokenizer(recipe, conversations)
        documents = _render(recipe, tokenizer, conversations)
    except UserError as fault:
        yield error(ABOUT, "data and tokenizer", str(fault), "see the message")
        return
    yield from check_documents(recipe, tokenizer, documents)
    try:
        model = load_model(recipe, tokenizer) if full else small_model(recipe, tokenizer)
    except (UserError, OSError, ValueError) as fault:
        first = str(fault).splitlines()[0]
        yield error(ABOUT, "model", first, "see the message; a folder or a filled cache works without a hub")
        return
    yield ok(ABOUT, "model", f"{type(model).__name__}, {'as it is' if full else 'a small one like it'}")
    yield from check_model(recipe, tokenizer, model.to(device), device)


def small_model(recipe: Recipe, tokenizer: Any) -> Any:
    """A model of the recipe's class and configuration with few and narrow layers, prepared for training."""
    if recipe.model.scratch is not None:
        return load_model(recipe, tokenizer)
    architecture = base_architecture(recipe.model)
    config = shrunk(architecture.config)
    config._attn_implementation = recipe.model.attention
    torch.manual_seed(recipe.seed)
    return prepare_for_training(packed_class(architecture.model_class)(config), recipe, tokenizer)


def shrunk(config: Any) -> Any:
    """A copy of ``config`` for a small model; window, width of heads, scales and vocabulary are unchanged."""
    fields = config.to_dict()
    layers = _layers_of_each_kind(fields["num_hidden_layers"], fields.get("num_kv_shared_layers") or 0)
    fields |= {name: min(value, fields[name]) for name, value in SMALL.items()}
    fields["num_hidden_layers"] = len(layers)
    if fields.get("layer_types"):
        fields["layer_types"] = [fields["layer_types"][layer] for layer in layers]
    if fields.get("num_kv_shared_layers"):
        fields["num_kv_shared_layers"] = 1
    if width := fields.get("hidden_size_per_layer_input"):  # times the vocabulary and the layers
        fields["hidden_size_per_layer_input"] = min(8, width)
    if own := fields.get("per_layer_config"):
        given = {int(layer): values for layer, values in own.items()}
        fields["per_layer_config"] = {
            place: {name: min(value, SMALL.get(name, value)) for name, value in given[layer].items()}
            for place, layer in enumerate(layers)
            if layer in given
        }
    return type(config)(**fields)


def _layers_of_each_kind(layers: int, sharing: int) -> list[int]:
    """The layers that a small model has: the first ones, or those before the first that shares, and the last.

    In Gemma 4 the last layers share the keys and values of the layers of their kind that come before.
    """
    if not sharing:
        return list(range(min(layers, SMALL["num_hidden_layers"])))
    own = layers - sharing
    return [*range(max(0, own - SMALL["num_hidden_layers"] + 1), own), layers - 1]


def check_documents(recipe: Recipe, tokenizer: Any, documents: Sequence[Document]) -> Iterator[CheckResult]:
    """Checks of tokens and labels."""
    data = recipe.data
    yield check_begin([token_ids(document.words) for document in documents], tokenizer.bos_token_id)
    trained = [labels(document.words) for document in documents]
    yield check_stop(trained, stop_ids(tokenizer, data.format, data.eos))
    yield check_mask(trained)


def check_begin(documents: Sequence[Any], bos: int | None) -> CheckResult:
    """Whether each document begins with its only BOS."""
    if bos is None:
        return ok(ABOUT, "one BOS", "the tokenizer has none")
    wrong = [ids for ids in documents if (ids == bos).sum() != 1 or ids[0] != bos]
    if wrong:
        found = (
            f"{len(wrong)} of {len(documents)} conversations do not begin with one BOS "
            f"(the first has {int((wrong[0] == bos).sum())})"
        )
        return error(ABOUT, "one BOS", found, "use a chat template and a tokenizer that belong together")
    return ok(ABOUT, "one BOS", f"in each of {len(documents)} conversations")


def check_stop(trained: Sequence[Any], stops: Sequence[int]) -> CheckResult:
    """Whether each document trains a token that ends a reply."""
    without = sum(not np.isin(of_one, stops).any() for of_one in trained)
    if without == len(trained):
        do = "set data.eos: token, or a chat template that ends turns with a special token"
        return error(ABOUT, "stop token", f"none of {without} conversations trains one of {list(stops)}", do)
    if without:
        found = f"{without} of {len(trained)} conversations end without a reply that trains one"
        return warning(ABOUT, "stop token", found, "look at them with `gemfit data inspect`")
    return ok(ABOUT, "stop token", f"one of {list(stops)} is trained in each conversation")


def check_mask(trained: Sequence[Any]) -> CheckResult:
    """Whether each document has trained tokens."""
    empty = sum(not (of_one != IGNORED).any() for of_one in trained)
    total, counted = (sum(map(len, trained)), sum(int((of_one != IGNORED).sum()) for of_one in trained))
    if empty:
        found = f"nothing is trained in {empty} of {len(trained)} conversations"
        return error(ABOUT, "loss mask", found, "use loss_on: all, or remove conversations without replies")
    return ok(ABOUT, "loss mask", f"{counted / total:.0%} of the tokens are trained")


def check_model(recipe: Recipe, tokenizer: Any, model: Any, device: torch.device) -> Iterator[CheckResult]:
    """Checks of how the model is built and called, those of the start-up self-test."""
    name = recipe.model.attention
    trainer = _trainer_view(recipe, model, tokenizer, device)
    if recipe.model.kernels == "liger":
        dtype = getattr(torch, recipe.model.dtype)
        yield _run("liger kernels", lambda: use_liger(model, device, dtype), "agree with the plain modules")
    if recipe.model.quantization is not None:
        yield _run("4 bits", lambda: selftest.check_quantized(model, device), "all frozen linear layers are")
    yield _run("attention", lambda: check_in_use(model, name), f"{name} is what runs")
    yield _run(
        "weights and buffers", lambda: selftest.check_module(model), "tied weights are tied, buffers exact"
    )
    yield _run(
        "no cache", lambda: check_no_cache(model, device), "none is created, so document boundaries hold"
    )
    for mode in ("eval", "train"):
        yield _run(
            f"isolation, {mode}",
            lambda mode=mode: selftest.check_isolated(trainer, mode),  # type: ignore[misc]
            "no document sees another",
        )
    yield _run("loss scale", lambda: selftest.check_loss_scale(trainer), "the mean over all trained tokens")
    yield _run(
        "gradients",
        lambda: check_gradient(float(selftest.probe_gradient(trainer).norm()), name),
        "finite through all layers",
    )


def check_no_cache(model: Any, device: torch.device) -> None:
    """``RuntimeError`` where a forward pass creates a KV cache, which hides document boundaries."""
    ids = torch.arange(8, device=device)[None]
    with torch.no_grad():
        made = model(input_ids=ids, position_ids=ids, use_cache=True).past_key_values
    if made is not None or model.config.use_cache:
        raise RuntimeError("the forward pass creates a KV cache, so documents would attend to each other")


def _run(name: str, action: Callable[[], Any], found: str) -> CheckResult:
    """A passed check with ``found``, or a failed one with the error that ``action`` raises."""
    try:
        action()
    except UserError as fault:
        said, _, do = str(fault).rpartition("; ")
        return error(ABOUT, name, said or do, do)
    except Exception as fault:  # an error of a library is a failed check too
        return error(ABOUT, name, f"{type(fault).__name__}: {fault}", "do not train with this combination")
    return ok(ABOUT, name, found)


def _trainer_view(recipe: Recipe, model: Any, tokenizer: Any, device: torch.device) -> Any:
    """A ``TrainerView`` of the plain model, without an engine."""

    def autocast() -> AbstractContextManager[Any]:
        if recipe.model.dtype == "float32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with autocast():
            return plain(*args, **kwargs)

    model.forward = forward

    def compute_loss(model: Any, inputs: dict[str, Any]) -> Any:
        step_tokens = inputs.pop("step_tokens")
        return model(**inputs).loss_sum / step_tokens

    return SimpleNamespace(
        model_wrapped=model,
        accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        args=SimpleNamespace(device=device),
        plan=SimpleNamespace(recipe=recipe, batch=SimpleNamespace(world_size=1)),
        pad_id=pad_id(tokenizer),
        sequence=ALONE,
        compute_loss=compute_loss,
        take_step_loss=lambda: 0.0,
    )


def _conversations(recipe: Recipe) -> Iterator[Conversation]:
    settings = LineSettings.of(recipe.data)
    if recipe.data.mixture:
        for place, line in all_lines(make_pack_job(recipe)):
            if line.strip() and (found := read_line(line.rstrip(b"\n"), place, settings)).messages:
                yield found


def _tokenizer(recipe: Recipe, conversations: Iterable[Conversation]) -> Any:
    model = recipe.model
    if model.scratch is not None:
        texts = [text for conversation in conversations for _, text in conversation.messages]
        return train_tokenizer(texts, model.scratch.vocab_size)
    assert model.tokenizer_source is not None, "a recipe has a model"
    return load_tokenizer(*model.tokenizer_source)


def _render(recipe: Recipe, tokenizer: Any, conversations: Sequence[Conversation]) -> list[Document]:
    renderer = make_renderer(tokenizer, recipe.data.format, recipe.data.eos, recipe.data.loss_on)
    for conversation in conversations:
        renderer.check(conversation)
    return renderer.render(conversations)
