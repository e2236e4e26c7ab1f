"""From a model without memory to an engine that holds the base weights, each rank its own part.

A model is built with parameters on the meta device. Strategies that shard (FSDP2, ZeRO-3) allocate and
read one shard a rank; the others allocate the whole model once, on the device that trains it. Weights are
read after the engine is there, straight into its fp32 masters, and not at all where a checkpoint holds
them. Nothing is communicated, apart from what DeepSpeed needs to spread its masters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import init_empty_weights
from torch.distributed.tensor import DTensor
from transformers.initialization import no_init_weights

from gemfit.train.checkpoint import deepspeed_zero
from gemfit.train.checkpoint.dcp_planner import Piece
from gemfit.train.checkpoint.engine_state import is_deepspeed, piece_of
from gemfit.train.collective import on_every_rank
from gemfit.train.model.safetensors_reader import BaseWeights

ADAPTER = "lora_"


@runtime_checkable
class Packs(Protocol):
    """A layer whose weight is held in fewer bits than it has on disk."""

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """The bits of a whole weight, in the type of the parameter that holds them."""


def without_memory(model_class: Any, config: Any, attention: str) -> Any:
    """A model whose parameters are on the meta device, and whose buffers are computed and real.

    Buffers that no checkpoint holds (scale of embeddings, rotary frequencies) would be garbage had they
    been on the meta device too.
    """
    config.dtype, config._attn_implementation = torch.float32, attention
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = model_class(config)  # not by _from_config, which shards the model where ZeRO-3 is configured
    model.tie_weights()
    return model.eval()


@contextmanager
def on_cpu_by_name(model: torch.nn.Module) -> Iterator[None]:
    """Let parameters on the meta device look like CPU tensors inside, at no cost.

    peft moves an adapter to where its layer is, and on the meta device it would lose its values.
    """
    held = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.is_meta
    ]
    for module, name, parameter in held:
        number = torch.zeros((), dtype=parameter.dtype)
        module._parameters[name] = torch.nn.Parameter(number.expand(parameter.shape), parameter.requires_grad)
    yield
    for module, name, parameter in held:
        stand_in = module._parameters[name]
        parameter.requires_grad = stand_in is not None and stand_in.requires_grad
        module._parameters[name] = parameter


def materialise(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give each parameter on the meta device memory of its own, full of NaN: what is not read is noticed."""

    def empty(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        # What has a type of its own already, as under quantisation, keeps it.
        own = dtype if parameter.dtype == torch.float32 else parameter.dtype
        data = torch.full(parameter.shape, torch.nan, dtype=own, device=device)
        return torch.nn.Parameter(data, parameter.requires_grad)

    replace_parameters(model, empty, lambda parameter: parameter.is_meta)


def load_into(model: torch.nn.Module, weights: BaseWeights) -> None:
    """Fill a whole, unwrapped model, adapters aside."""
    for name, parameter in model.named_parameters():
        if base_name(name) is not None:
            _fill(model, name, weights, [Piece(parameter.detach().view(-1), 0, parameter.shape)])


def load_buffers(model: torch.nn.Module, weights: BaseWeights) -> None:
    """Fill the buffers that a checkpoint holds; there are few and they are small."""
    for name, buffer in model.named_buffers():
        if name in weights.entries:
            weights.fill_whole(name, buffer)


def load_into_engine(engine: Any, module: torch.nn.Module, weights: BaseWeights, *, trained: bool) -> None:
    """Fill what this rank holds of a prepared model: frozen parameters, and those that are ``trained``.

    ``module`` is the model inside ``engine``. Collective: a file that one rank cannot read fails them all.
    """

    def fill() -> None:
        for name, parameter in module.named_parameters():
            if base_name(name) is not None and (trained or not parameter.requires_grad):
                _fill(module, name, weights, _pieces(engine, parameter))

    on_every_rank(fill)
    if is_deepspeed(engine):
        deepspeed_zero.publish(engine, 0) if trained else deepspeed_zero.gather_again(engine)


def _fill(module: torch.nn.Module, name: str, weights: BaseWeights, pieces: Iterable[Piece]) -> None:
    """Read ``pieces`` of parameter ``name`` of ``module``; of a packed one all is read, and some kept."""
    base, owner = base_name(name), module.get_submodule(name.rpartition(".")[0])
    assert base is not None, "adapters are not in the base"
    if not (isinstance(owner, Packs) and name.endswith(".weight")):
        for piece in pieces:
            weights.fill(base, piece)
        return
    for piece in pieces:
        # Scales belong to blocks that a shard may cut, so every rank makes them all.
        packed = owner.pack(weights.whole(base, piece.flat.dtype, piece.flat.device)).view(-1)
        piece.flat.copy_(packed[piece.start : piece.start + piece.flat.numel()])


def base_name(name: str) -> str | None:
    """What the base model calls a parameter; ``None`` for an adapter's own."""
    if ADAPTER in name:
        return None
    for added in ("_checkpoint_wrapped_module.", "base_model.model.", "base_layer."):
        name = name.replace(added, "")
    return name


@contextmanager
def sharded_from_meta(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Let accelerate apply FSDP2 to a model without memory inside; afterwards it has its shards.

    accelerate tells parameters apart by their address, which is 0 for all of them on the meta device.
    """
    for number, parameter in enumerate(model.parameters(), start=1):
        if parameter.is_meta:
            parameter.data_ptr = lambda number=number: -number  # type: ignore[method-assign,misc]
    yield
    model._apply(lambda t: torch.full_like(t, torch.nan, device=device) if t.is_meta else t)  # type: ignore[no-untyped-call]


def partition(model: torch.nn.Module, config: dict[str, Any], dtype: torch.dtype) -> None:
    """Turn the parameters of ``model`` into those of ZeRO-3, of which each rank allocates its part.

    ``deepspeed.zero.Init`` would broadcast every parameter from rank 0 first; here all ranks read files.
    """
    import deepspeed  # noqa: PLC0415  (seconds of imports that no other strategy needs)

    # An empty module makes it set up all that it does beside converting parameters.
    zero3 = deepspeed.zero.Init(module=torch.nn.Module(), config_dict_or_path=config, dtype=dtype)

    def partitioned(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        like = {"dtype": dtype, "device": zero3.local_device}
        data = torch.empty(parameter.shape, **like) if parameter.is_meta else parameter.data.to(**like)
        made = torch.nn.Parameter(data, parameter.requires_grad)
        zero3._convert_to_deepspeed_param(made)
        made.partition()  # type: ignore[attr-defined]  # keeps this rank's part and frees the rest
        return made

    replace_parameters(model, partitioned, lambda parameter: True)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(zero3.local_device)


def replace_parameters(
    model: torch.nn.Module,
    make: Callable[[torch.nn.Parameter], torch.nn.Parameter],
    which: Callable[[torch.nn.Parameter], bool],
) -> None:
    """Others for some parameters, made one after the other; those that are one weight stay one."""
    made: dict[int, torch.nn.Parameter] = {}
    replaced = []  # kept until the end: the address of a tensor tells them apart
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not which(parameter):
                continue
            if id(parameter) not in made:
                made[id(parameter)] = make(parameter)
                replaced.append(parameter)
            module._parameters[name] = made[id(parameter)]


def _pieces(engine: Any, parameter: Any) -> Iterator[Piece]:
    """This rank's memory of ``parameter``: the fp32 master where there is one apart from the weight."""
    if isinstance(parameter, DTensor):
        yield piece_of(parameter)
    elif is_deepspeed(engine) and parameter.requires_grad:
        if (fragment := deepspeed_zero.fragment_of(engine, parameter)) is not None:
            yield fragment.of(fragment.flat, deepspeed_zero.shape_of(parameter))
    elif hasattr(parameter, "ds_tensor"):
        yield deepspeed_zero.frozen_piece(parameter)
    else:
        yield Piece(parameter.detach().view(-1), 0, parameter.shape)
