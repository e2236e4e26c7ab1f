"""Meta-device init: build a model without memory, then allocate it whole or one shard per rank.

A model is built with parameters on the meta device. Engines that shard (FSDP2, ZeRO-3) allocate one shard
per rank; the others allocate the whole model once, on the device that trains it. Nothing is communicated,
apart from what DeepSpeed needs to partition its masters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers.initialization import no_init_weights


def init_on_meta(model_class: Any, config: Any, attention: str) -> Any:
    """A model with parameters on the meta device and computed, real buffers.

    Buffers that no checkpoint holds (embedding scale, rotary frequencies) would be undefined if they were
    on the meta device too.
    """
    config.dtype, config._attn_implementation = torch.float32, attention
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = model_class(config)  # _from_config would shard the model where ZeRO-3 is configured
    model.tie_weights()
    return model.eval()


@contextmanager
def meta_as_cpu(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Make parameters of ``modules`` on the meta device look like CPU tensors inside, without memory.

    peft moves an adapter to the device of its layer, and on the meta device it would lose its values.
    """
    held = [
        (module, name, parameter)
        for module in modules
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.is_meta
    ]
    for module, name, parameter in held:
        scalar = torch.zeros((), dtype=parameter.dtype)
        module._parameters[name] = torch.nn.Parameter(scalar.expand(parameter.shape), parameter.requires_grad)
    yield
    for module, name, parameter in held:
        placeholder = module._parameters[name]
        parameter.requires_grad = placeholder is not None and placeholder.requires_grad
        module._parameters[name] = parameter


def allocate_parameters(
    model: torch.nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    *,
    which: Callable[[torch.nn.Parameter], bool] = lambda parameter: True,
) -> None:
    """Allocate each parameter on the meta device for which ``which`` is true.

    They are filled with NaN, so that unread weights are noticed.
    """

    def empty(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        # A dtype that is already set, as under quantization, stays.
        own = dtype if parameter.dtype == torch.float32 else parameter.dtype
        data = torch.full(parameter.shape, torch.nan, dtype=own, device=device)
        return torch.nn.Parameter(data, parameter.requires_grad)

    replace_parameters(model, empty, lambda parameter: parameter.is_meta and which(parameter))


def cast_frozen(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make every frozen parameter of ``model`` one of ``dtype``; trained ones stay as they are."""

    def cast(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        return torch.nn.Parameter(parameter.detach().to(dtype), requires_grad=False)

    replace_parameters(
        model, cast, lambda parameter: not parameter.requires_grad and parameter.dtype != dtype
    )


@contextmanager
def fsdp2_from_meta(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Let accelerate apply FSDP2 to a meta-device model inside; its shards are allocated afterwards.

    accelerate identifies parameters by their address, which is 0 for all of them on the meta device.
    """
    for number, parameter in enumerate(model.parameters(), start=1):
        if parameter.is_meta:
            parameter.data_ptr = lambda number=number: -number  # type: ignore[method-assign,misc]
    yield
    model._apply(lambda t: torch.full_like(t, torch.nan, device=device) if t.is_meta else t)  # type: ignore[no-untyped-call]


def zero3_from_meta(model: torch.nn.Module, config: dict[str, Any], dtype: torch.dtype) -> None:
    """Convert the parameters of ``model`` to ZeRO-3 parameters, of which each rank allocates its shard.

    ``deepspeed.zero.Init`` would broadcast every parameter from rank 0 first; here all ranks read files.
    """
    import deepspeed  # noqa: PLC0415  (seconds of imports that no other strategy needs)

    # With an empty module it does all of its set-up except for converting parameters.
    zero3 = deepspeed.zero.Init(module=torch.nn.Module(), config_dict_or_path=config, dtype=dtype)

    def partitioned(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        like = {"dtype": dtype, "device": zero3.local_device}
        data = torch.empty(parameter.shape, **like) if parameter.is_meta else parameter.data.to(**like)
        made = torch.nn.Parameter(data, parameter.requires_grad)
        zero3._convert_to_deepspeed_param(made)
        made.partition()  # type: ignore[attr-defined]  # keeps this rank's shard and frees the rest
        return made

    replace_parameters(model, partitioned, lambda parameter: True)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(zero3.local_device)


def replace_parameters(
    model: torch.nn.Module,
    make: Callable[[torch.nn.Parameter], torch.nn.Parameter],
    which: Callable[[torch.nn.Parameter], bool],
) -> None:
    """Replace the parameters for which ``which`` is true, one at a time; tied weights stay tied."""
    made: dict[int, torch.nn.Parameter] = {}
    replaced = []  # alive until the end, because their ids identify them
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not which(parameter):
                continue
            if id(parameter) not in made:
                made[id(parameter)] = make(parameter)
                replaced.append(parameter)
            module._parameters[name] = made[id(parameter)]
