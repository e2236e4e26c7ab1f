"""Model-state memory per rank: parameters, float32 masters, gradients, buckets, optimizer moments.

What each engine keeps was read in its source and measured in running processes: benchmarks/memory_states.md
compares prediction and measurement. Sizes are those of rank 0, which holds the largest shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from gemfit.schemas.head_division import key_value_repeats
from gemfit.schemas.recipe_model import Lora, Quantization
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single, Strategy
from gemfit_launch.predict.model_shape import ModelShape, Shapes

FLOAT32 = 4
MOMENTS = 8
"""AdamW: two float32 numbers per trained parameter."""
REDUCE_BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed 0.19.8, zero/config.py: `reduce_bucket_size`. A bucket has its full size for every model."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed 0.19.8, zero/config.py: `sub_group_size`, what ZeRO-3 steps at a time."""
BLOCK, OUTER_BLOCK = 64, 256
"""bitsandbytes 0.50: weights per scale, and 8-bit scales per scale of the second level."""
CODES, OUTER_CODES = 16, 256
"""Entries of the 4-bit and 8-bit code tables, which each layer keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Everything that memory and time depend on: model, strategy, ranks and batch."""

    shape: ModelShape
    lora: Lora | None
    dtype: str
    strategy: Strategy
    quantization: Quantization | None = None
    world_size: int
    ranks_per_node: int
    per_device_batch_size: int
    gradient_accumulation_steps: int
    seq_len: int
    activation_checkpointing: bool
    attention: str
    kernels: str = "none"
    read_whole: bool = False
    """Whether each rank loads the whole model in float32 into host memory."""

    @property
    def compute_bytes(self) -> int:
        return 2 if self.dtype == "bfloat16" else FLOAT32

    @property
    def autocast(self) -> bool:
        """Whether the embedding is float32 and not cast, so that the residual stream stays float32.

        Frozen under LoRA, it is in the compute dtype already.
        """
        return self.casts_inputs and self.trains_embedding

    @property
    def trains_embedding(self) -> bool:
        """Whether the input embedding is trained."""
        return self._trains("embed_tokens")

    @property
    def trains_output(self) -> bool:
        """Whether the output layer is trained."""
        return self._trains("lm_head")

    def _trains(self, module: str) -> bool:
        saved = None if self.lora is None else self.lora.modules_to_save
        return saved is None or module in saved or (self.shape.tied and bool(saved))

    @property
    def targets(self) -> tuple[str, ...]:
        """Linear modules with adapters."""
        return () if self.lora is None else adapted_modules(self.shape, self.lora)

    @property
    def adapter_shapes(self) -> Shapes:
        """Tensors of the adapters, without modules that are trained whole."""
        return () if self.lora is None else adapter_shapes(self.shape, self.lora)

    @property
    def adapters(self) -> int:
        """Parameters of the adapters."""
        return count(self.adapter_shapes)

    @property
    def copied(self) -> int:
        """Parameters of the copies of modules that are trained whole; the frozen originals stay in memory."""
        return 0 if self.lora is None else self.trained - self.adapters

    @property
    def casts_inputs(self) -> bool:
        """Whether trained matrices are float32, so that their inputs are cast."""
        return self.compute_bytes == 2 and isinstance(self.strategy, Single | Ddp)

    @property
    def replicas(self) -> int:
        """Copies of a sharded model (HSDP)."""
        return self.strategy.replicas(self.nodes) if isinstance(self.strategy, Fsdp) else 1

    @property
    def nodes(self) -> int:
        return self.world_size // self.ranks_per_node

    @property
    def trained_shapes(self) -> Shapes:
        """All trained tensors."""
        return trained_shapes(self.shape, self.lora)

    @property
    def frozen_shapes(self) -> Shapes:
        """All frozen tensors as engines see them: 4-bit matrices are columns in the compute dtype."""
        if self.lora is None:
            return ()
        return self._layers(self._held_matrices) + tuple((*shape, 1) for shape in self.shape.edge_shapes)

    def _layers(self, matrices: tuple[tuple[int, int], ...]) -> Shapes:
        times = self.shape.num_layers
        return tuple((*shape, times) for shape in (*matrices, *self.shape.vector_shapes))

    @property
    def _held_matrices(self) -> tuple[tuple[int, int], ...]:
        matrices = self.shape.matrix_shapes
        if self.quantization is None:
            return matrices
        return tuple((-(-rows * columns // (2 * self.compute_bytes)), 1) for rows, columns in matrices)

    @property
    def layer_elements(self) -> int:
        """Elements of one layer's base weights, as engines see them."""
        return count(self._layers(self._held_matrices)) // self.shape.num_layers

    @property
    def edge_elements(self) -> int:
        """Elements outside the layers: embeddings and the last norm."""
        return sum(first * rest for first, rest in self.shape.edge_shapes)

    @property
    def base_elements(self) -> int:
        """Elements of the base model, as engines see them."""
        return self.edge_elements + self.shape.num_layers * self.layer_elements

    @property
    def scale_bytes(self) -> int:
        """Quantization scales and code tables of 4-bit matrices, replicated on every rank."""
        if self.quantization is None:
            return 0
        blocks = [-(-rows * columns // BLOCK) for rows, columns in self.shape.matrix_shapes]
        if not self.quantization.double:
            return self.shape.num_layers * FLOAT32 * sum(number + CODES for number in blocks)
        # With 8-bit scales come a second table, scales of the scales, and their mean.
        outer = sum(-(-number // OUTER_BLOCK) + CODES + OUTER_CODES + 1 for number in blocks)
        return self.shape.num_layers * (sum(blocks) + FLOAT32 * outer)

    @property
    def trained(self) -> int:
        """Trained parameters."""
        return count(self.trained_shapes)

    @property
    def degree(self) -> int:
        """Ranks that share each row (sequence parallelism)."""
        return self.strategy.sequence_parallel

    @property
    def row_tokens(self) -> int:
        """Tokens of the rows that a rank takes at once, whole."""
        return self.per_device_batch_size * self.seq_len

    @property
    def tokens(self) -> int:
        """Tokens per forward pass of a rank: its slices of the rows."""
        return self.row_tokens // self.degree

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and of values in attention, over the ranks that share a row: repeated, if too few."""
        heads = self.shape.num_kv_heads
        return heads * key_value_repeats(heads, self.degree)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStates:
    """Bytes of model states in one place: on the GPU, or in host memory."""

    parameters: int = 0
    masters: int = 0
    """Float32 copies that the optimizer updates, where the model computes in another dtype."""
    gradients: int = 0
    """At their peak, just before the step."""
    buckets: int = 0
    """Where gradients wait to be reduced."""
    moments: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedStates:
    """Model states of a rank, by place."""

    gpu: ModelStates
    host: ModelStates = ModelStates()


def count(shapes: Shapes) -> int:
    """Elements of all tensors."""
    return sum(first * rest * times for first, rest, times in shapes)


def adapted_modules(shape: ModelShape, lora: Lora) -> tuple[str, ...]:
    """Linear modules that get adapters."""
    return tuple(shape.linear_shapes) if lora.targets == "all-linear" else lora.targets


def adapter_shapes(shape: ModelShape, lora: Lora) -> Shapes:
    """Tensors of the adapters, without modules that are trained whole."""
    return shape.adapter_shapes(lora.rank, adapted_modules(shape, lora), magnitudes=lora.use_dora)


def trained_shapes(shape: ModelShape, lora: Lora | None) -> Shapes:
    """All trained tensors."""
    if lora is None:
        return shape.all_shapes
    return adapter_shapes(shape, lora) + shape.embedding_shapes(lora.modules_to_save)


def place_model_states(config: Configuration) -> PlacedStates:
    """Model states of rank 0 under its strategy."""
    match config.strategy:
        case Single() | Ddp():
            return _replicated(config)
        case Fsdp() as fsdp:
            return _fsdp(config, fsdp)
        case DeepSpeed(stage=3) as zero:
            return _zero3(config, zero)
        case DeepSpeed() as zero:
            return _zero12(config, zero)


def _replicated(config: Configuration) -> PlacedStates:
    trained = config.trained
    return PlacedStates(  # DDP's gradients live in its buckets
        gpu=ModelStates(
            parameters=FLOAT32 * trained
            + config.compute_bytes * count(config.frozen_shapes)
            + config.scale_bytes,
            gradients=FLOAT32 * trained,
            moments=MOMENTS * trained,
        )
    )


def _fsdp(config: Configuration, strategy: Fsdp) -> PlacedStates:
    shards = config.world_size // config.replicas

    def shard(first: int, rest: int) -> int:  # FSDP2 cuts the first dimension
        return -(-first // shards) * rest

    trained, frozen = _sharded(config.trained_shapes, shard), _sharded(config.frozen_shapes, shard)
    sharded = ModelStates(
        parameters=FLOAT32 * trained + config.compute_bytes * frozen,
        gradients=FLOAT32 * trained,
        moments=MOMENTS * trained,
    )
    scales = ModelStates(parameters=config.scale_bytes)
    return (
        PlacedStates(gpu=scales, host=sharded)
        if strategy.offload
        else PlacedStates(gpu=_plus(scales, sharded))
    )


def _zero12(config: Configuration, strategy: DeepSpeed) -> PlacedStates:
    compute, trained = config.compute_bytes, config.trained
    shard = -(-trained // config.world_size)
    parameters = compute * (trained + count(config.frozen_shapes)) + config.scale_bytes
    # Two, because communication overlaps the backward pass.
    buckets = 2 * compute * REDUCE_BUCKET_ELEMENTS
    flat = FLOAT32 * shard
    if strategy.offload_optimizer:
        # Parameters come back through a copy in their own dtype; stage 2 accumulates separately.
        summed = flat * (1 if strategy.stage == 1 else 2)
        host = ModelStates(
            parameters=compute * shard, masters=flat, gradients=summed, moments=MOMENTS * shard
        )
        whole = compute * trained if strategy.stage == 1 else 0
        return PlacedStates(
            gpu=ModelStates(parameters=parameters, gradients=whole, buckets=buckets), host=host
        )
    if strategy.stage == 1:
        gradients = max(compute * trained, compute * shard + flat)
    elif compute != FLOAT32:  # accumulated gradients are flat already
        gradients = flat
    else:  # accumulated gradients are views of whole gradients, flattened for the step
        gradients = flat + FLOAT32 * _whole_tensors(config, shard)
    return PlacedStates(
        gpu=ModelStates(
            parameters=parameters, masters=flat, gradients=gradients, buckets=buckets, moments=MOMENTS * shard
        )
    )


def _whole_tensors(config: Configuration, shard: int) -> int:
    """Elements of all tensors that overlap the shard of the rank in which the embedding ends."""
    if not config.trains_embedding:  # adapters are so small that next to none crosses a shard's boundary
        return 0
    return -(-config.shape.embedding_parameters // shard) * shard


def _zero3(config: Configuration, strategy: DeepSpeed) -> PlacedStates:
    def shard(first: int, rest: int) -> int:  # ZeRO-3 cuts the flattened tensor
        return -(-first * rest // config.world_size)

    compute = config.compute_bytes
    trained, frozen = _sharded(config.trained_shapes, shard), _sharded(config.frozen_shapes, shard)
    parameters = ModelStates(parameters=compute * (trained + frozen))
    # Accumulated gradients, and a copy of those that AdamW steps at a time; on the host per group.
    stepped = trained if strategy.offload_optimizer else min(trained, SUB_GROUP_ELEMENTS)
    optimizer = ModelStates(
        masters=FLOAT32 * trained,
        gradients=FLOAT32 * (trained + stepped),
        moments=MOMENTS * trained,
    )
    # The bucket has the reduction dtype, float32.
    buckets = ModelStates(buckets=FLOAT32 * REDUCE_BUCKET_ELEMENTS)
    gpu, host = _plus(buckets, ModelStates(parameters=config.scale_bytes)), ModelStates()
    host = _plus(host, optimizer) if strategy.offload_optimizer else host
    gpu = gpu if strategy.offload_optimizer else _plus(gpu, optimizer)
    host = _plus(host, parameters) if strategy.offload_params else host
    gpu = gpu if strategy.offload_params else _plus(gpu, parameters)
    return PlacedStates(gpu=gpu, host=host)


def _sharded(shapes: Shapes, shard: Callable[[int, int], int]) -> int:
    return sum(shard(first, rest) * times for first, rest, times in shapes)


def _plus(one: ModelStates, other: ModelStates) -> ModelStates:
    names = [field.name for field in fields(one)]
    return ModelStates(**{name: getattr(one, name) + getattr(other, name) for name in names})
