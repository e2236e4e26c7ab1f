"""A trainer that weighs what its rank keeps: bytes of live tensors, by what they are for.

`tests/memory/states.py` trains with it. A storage counts once, however many tensors look at it; of a sharded
tensor counts what lies here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from gemfit.train.collective import rank
from gemfit.train.loop.trainer import PackedTrainer

GRADIENTS_OF_ZERO = (
    "averaged_gradients",
    "all_grad_tensors",
    "grad_partitions_flat_buffer",
    "accumulated_grads_in_cpu",
)
KINDS = ("parameters", "masters", "gradients", "moments", "buckets")


def weigh(tensors: Iterable[Any]) -> int:
    """Bytes of the storages behind ``tensors``."""
    storages: dict[int, int] = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            storage = local.untyped_storage()
            if storage.nbytes():
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Weighing(PackedTrainer):
    """Trains as ever, and leaves the largest weight of each kind, after the first step, in the run."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        (self.run.root / f"weights-{rank()}.json").write_text(json.dumps(self.peaks))
        return result

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self.peaks = dict.fromkeys(KINDS, 0)
        self.buckets: dict[Any, Any] = {}
        inner = self.optimizer
        while not isinstance(inner, torch.optim.AdamW):  # accelerate and DeepSpeed have wrapped it
            inner = inner.optimizer
        self.adamw = inner
        inner.register_step_pre_hook(lambda *_: self.weigh_all())
        if isinstance(self.model_wrapped, torch.nn.parallel.DistributedDataParallel):
            # torch wants its own class as the annotation, or none at all.
            self.model_wrapped.register_comm_hook(None, lambda state, bucket: self._see_bucket(bucket))
        if type(self.model_wrapped).__name__ == "DeepSpeedEngine":
            self._weigh_before(self.model_wrapped.optimizer)
            # ZeRO-2 makes its buckets for each backward pass and drops them after it.
            trained = [p for p in self.model_wrapped.module.parameters() if p.requires_grad]
            trained[0].register_hook(lambda gradient: self.weigh_all(("buckets",)))
        return prepared

    def _weigh_before(self, zero: Any) -> None:
        """Weigh when a ZeRO step begins too: it frees and flattens before AdamW steps."""
        step = zero.step

        def weighed(*args: Any, **kwargs: Any) -> Any:
            self.weigh_all()
            return step(*args, **kwargs)

        zero.step = weighed

    def _see_bucket(self, bucket: Any) -> Any:
        buffer = bucket.buffer()
        storage = buffer.untyped_storage()
        self.buckets[bucket.index()] = (storage.data_ptr(), storage.nbytes())
        work = torch.distributed.all_reduce(buffer, async_op=True).get_future()
        return work.then(lambda done: done.value()[0].div_(torch.distributed.get_world_size()))

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        self.weigh_all()
        return loss

    def weigh_all(self, kinds: Collection[str] = KINDS) -> None:
        """Raise the peaks to what is there now."""
        if self.state.global_step == 0:  # AdamW has no state before its first step
            return
        tensors = self._tensors()
        now = {kind: weigh(found) for kind, found in tensors.items()}
        if self.buckets:  # of DDP; what they share with gradients counts as gradients
            owned = {g.untyped_storage().data_ptr() for g in tensors["gradients"] if g is not None}
            now["buckets"] += sum(size for place, size in self.buckets.values() if place not in owned)
        for kind, size in now.items():
            if kind in kinds:
                self.peaks[kind] = max(self.peaks[kind], size)

    def _tensors(self) -> dict[str, list[Any]]:
        model, zero = self.accelerator.unwrap_model(self.model_wrapped), None
        if type(self.model_wrapped).__name__ == "DeepSpeedEngine":
            zero = self.model_wrapped.optimizer
        parameters = list(model.parameters())
        found: dict[str, list[Any]] = {
            "parameters": [getattr(p, "ds_tensor", p) for p in parameters] + list(_scales(model)),
            "masters": [],
            "gradients": [p.grad for p in parameters] + list(_unsharded(model)),
            "moments": [value for state in self.adamw.state.values() for value in state.values()],
            "buckets": [],
        }
        if zero is not None:
            masters = list(_either(zero, "fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"))
            partitioned = _either(zero, *GRADIENTS_OF_ZERO)
            found["masters"] = masters
            found["parameters"] += getattr(zero, "param_buffer_of_bit16_for_cpu_offload_groups", [])
            found["gradients"] += [m.grad for m in masters] + list(_flat(partitioned))
            found["gradients"] += [getattr(p, "grad_accum", None) for p in parameters]
            found["buckets"] = list(_flat(bucket.buffer for bucket in zero.ipg_buckets.values()))
        return found


def _unsharded(model: torch.nn.Module) -> Iterator[Any]:
    """Whole gradients that FSDP2 adds up before it reduces them."""
    for module in model.modules():
        state = getattr(module, "_get_fsdp_state", lambda: None)()
        for group in getattr(state, "_fsdp_param_groups", None) or [
            getattr(state, "_fsdp_param_group", None)
        ]:
            for parameter in getattr(group, "fsdp_params", ()):
                yield parameter.unsharded_accumulated_grad
                yield getattr(getattr(parameter, "_unsharded_param", None), "grad", None)


def _scales(model: torch.nn.Module) -> Iterator[Any]:
    """What turns the bits of layers in 4 bits into numbers."""
    for module in model.modules():
        if (state := getattr(module, "quant_state", None)) is not None:
            yield from (state.absmax, state.code, state.offset)
            yield from (state.state2.absmax, state.state2.code) if state.nested else ()


def _either(owner: Any, *names: str) -> Iterator[Any]:
    for name in names:
        value = getattr(owner, name, None)
        yield from [] if value is None else [value] if isinstance(value, torch.Tensor) else _flat([value])


def _flat(values: Any) -> Iterator[Any]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from _flat(value)
