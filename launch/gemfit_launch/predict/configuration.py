"""What memory and time depend on: model, strategy, ranks and batch of a recipe on a topology."""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.schemas.head_division import key_value_repeats
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import Lora, Quantization
from gemfit.schemas.strategy import Ddp, Fsdp, Single, Strategy
from gemfit_launch.predict.model_shape import ModelShape, Shapes

FLOAT32 = 4
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


def configuration_of(plan: Plan, shape: ModelShape) -> Configuration:
    """The configuration of a plan."""
    batch, topology = plan.batch, plan.topology
    return make_configuration(
        plan.recipe,
        shape,
        world_size=topology.world_size,
        ranks_per_node=topology.ranks_per_node,
        per_device_batch_size=batch.per_device_batch_size,
        gradient_accumulation_steps=batch.gradient_accumulation_steps,
    )


def make_configuration(
    recipe: Recipe,
    shape: ModelShape,
    *,
    world_size: int,
    ranks_per_node: int,
    per_device_batch_size: int,
    gradient_accumulation_steps: int,
) -> Configuration:
    """``recipe`` on these ranks; `attention: auto` counts as `sdpa`."""
    model = recipe.model
    return Configuration(
        shape=shape,
        lora=model.lora,
        dtype=model.dtype,
        strategy=recipe.strategy,
        quantization=model.quantization,
        world_size=world_size,
        ranks_per_node=ranks_per_node,
        per_device_batch_size=per_device_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        seq_len=recipe.data.seq_len,
        activation_checkpointing=model.activation_checkpointing,
        attention="sdpa" if model.attention == "auto" else model.attention,
        kernels=model.kernels,
        read_whole=model.gguf_file is not None,
    )


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
