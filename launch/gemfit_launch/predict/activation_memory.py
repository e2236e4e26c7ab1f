"""Activation memory of a rank: tensors saved for the backward pass, logits, gathers, gradient transients.

The tensors that autograd saves for one layer are listed one by one, as `transformers` 5.23 and Liger's
functions save them; benchmarks/memory_peaks.md compares their sum with measurements, without Liger. Compiled
layers are counted like layers that are not compiled, because the compiler decides what it saves.
"""

from __future__ import annotations

from gemfit.schemas.recipe_model import TAKES_BOUNDARIES
from gemfit.schemas.strategy import DeepSpeed, Fsdp
from gemfit_launch.predict.configuration import FLOAT32, Configuration
from gemfit_launch.predict.model_state_memory import REDUCE_BUCKET_ELEMENTS

LOSS_SLICE_TOKENS = 1024
"""Tokens whose logits exist at a time; as in the training's loss."""
LOGIT_BYTES = 12
"""Of one logit at the peak of the backward pass: log-softmax and two gradients, all float32."""
LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed 0.19.8, zero/config.py: `stage3_max_live_parameters` and `stage3_max_reuse_distance`."""
PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed 0.19.8, zero/config.py: `stage3_prefetch_bucket_size`."""
GATHERED_UNITS = 2
"""FSDP2 gathers the next layer while one is computed."""


def stream_bytes(config: Configuration) -> int:
    """Bytes per element of the residual stream, which is float32 under autocast."""
    return FLOAT32 if config.autocast else config.compute_bytes


def layer_bytes(config: Configuration) -> int:
    """What autograd saves of one layer, for all tokens of a rank."""
    return round(
        config.tokens * (_norms(config) + _attention(config) + _feed_forward(config) + _dora(config))
    )


def checkpoint_bytes(config: Configuration) -> int:
    """What activation checkpointing saves of one layer: its input."""
    return config.tokens * config.shape.hidden_size * stream_bytes(config)


def edge_bytes(config: Configuration) -> int:
    """What autograd saves outside the layers: the last norm, targets, positions and masks."""
    hidden = config.shape.hidden_size
    norm = 2 * FLOAT32 * hidden + stream_bytes(config) * hidden
    return config.tokens * (norm + 3 * 8) + mask_bytes(config)


def mask_bytes(config: Configuration) -> int:
    """Masks of whole rows, on every rank; FlashAttention and FlexAttention have none of this size."""
    if config.attention not in ("sdpa", "eager"):
        return 0
    kinds = 2 if config.shape.num_sliding_layers else 1
    return kinds * config.row_tokens * config.seq_len * config.compute_bytes


def logits_bytes(config: Configuration) -> int:
    """One slice of logits with its gradients."""
    return min(LOSS_SLICE_TOKENS, config.tokens) * config.shape.vocab_size * LOGIT_BYTES


def output_layer_bytes(config: Configuration) -> int:
    """The output layer's gradient while the logits exist.

    The sum over earlier slices, in the dtype of the residual stream; the first slice has autocast's cast.
    """
    embedding = config.shape.embedding_parameters
    if not config.trains_output:  # frozen, and in the compute dtype
        return 0
    if config.tokens > LOSS_SLICE_TOKENS:
        return embedding * stream_bytes(config)
    return embedding * config.compute_bytes * config.casts_inputs


def output_sum_bytes(config: Configuration) -> int:
    """Adding the gradient of one slice to that of earlier slices, which makes a third tensor."""
    if not config.trains_output or config.tokens <= LOSS_SLICE_TOKENS:
        return 0
    tensors = 3 + config.casts_inputs  # the cast is saved for the slices to come
    return tensors * config.shape.embedding_parameters * config.compute_bytes


def output_gradient_bytes(config: Configuration) -> int:
    """The gradient of a tied output layer, held until that of the embedding is there."""
    if not config.trains_output or not config.shape.tied:
        return 0
    return config.shape.embedding_parameters * stream_bytes(config)


def embedding_gradient_bytes(config: Configuration) -> int:
    """The dense embedding gradient at the end of the backward pass, added to the output layer's.

    Engines copy the sum for its reduction when the two others are gone, which is less. Until then FSDP2 holds
    the copy of the first layer's gradients.
    """
    if not config.trains_embedding:
        return 0
    gradients = 3 * stream_bytes(config) * config.shape.embedding_parameters
    copied = config.shape.layer_parameters if isinstance(config.strategy, Fsdp) else 0
    return gradients + FLOAT32 * copied


def weight_cache_bytes(config: Configuration) -> int:
    """Casts of the layers' matrices that autocast caches until the end of the forward pass."""
    if not config.casts_inputs:
        return 0
    if config.lora is not None:  # only adapters are cast
        return config.compute_bytes * config.adapters
    return config.compute_bytes * config.shape.linear_parameters * config.shape.num_layers


def unpacked_bytes(config: Configuration) -> int:
    """The largest matrix, dequantized from 4 bits to the compute dtype for each product."""
    if config.quantization is None:
        return 0
    return config.compute_bytes * max(rows * columns for rows, columns in config.shape.matrix_shapes)


def dora_bytes(config: Configuration) -> int:
    """The largest matrix with its adapter added, of which DoRA takes the norm: peft 0.21.

    The adapter's product, its scaled copy and the sum; under autocast also the matrix in float32.
    """
    if config.lora is None or not config.lora.use_dora:
        return 0
    element = FLOAT32 if config.casts_inputs else config.compute_bytes
    copies = 4 if config.casts_inputs else 3
    shapes = [config.shape.linear_shapes[name] for name in config.targets]
    return max(element * (copies * inputs * outputs + inputs * inputs) for inputs, outputs in shapes)


def gather_bytes(config: Configuration) -> int:
    """Gathered parameters of a sharding strategy at a time."""
    compute, layer = config.compute_bytes, config.layer_elements
    edges = config.edge_elements + config.copied
    match config.strategy:
        case Fsdp(reshard_after_forward=False):
            return compute * (config.base_elements + config.copied)
        case Fsdp():  # embedding and last norm are one FSDP unit that stays gathered
            return compute * (edges + GATHERED_UNITS * layer)
        case DeepSpeed(stage=3):
            live = max(LIVE_ELEMENTS, edges + layer) + PREFETCH_ELEMENTS
            return compute * min(config.base_elements + config.copied, live)
        case _:
            return 0


def gathered_edge_bytes(config: Configuration) -> int:
    """What is gathered at the end of the backward pass: FSDP2 has freed each layer after its own."""
    if isinstance(config.strategy, Fsdp):
        return config.compute_bytes * (config.edge_elements + config.copied)
    return gather_bytes(config)


def gradient_transient_bytes(config: Configuration) -> int:
    """Gradients of the current layer before accumulation, and their float32 copy for reduction.

    ZeRO-2 copies a full bucket, in its own dtype first, after the gradients in it are gone.
    """
    compute, layer = config.compute_bytes, config.shape.layer_parameters
    if config.lora is not None:
        layer = config.adapters // config.shape.num_layers
    bucket = min(REDUCE_BUCKET_ELEMENTS, config.trained)
    match config.strategy:
        case Fsdp():
            return (compute + FLOAT32) * layer
        case DeepSpeed(stage=2) if compute != FLOAT32:
            return max(compute * layer, (compute + FLOAT32) * bucket)
        case DeepSpeed(stage=3) if compute != FLOAT32:
            return compute * layer + FLOAT32 * bucket
        case _:
            return compute * layer


def _norms(config: Configuration) -> float:
    """Bytes per token: a norm saves its input in float32 and a factor, and its output if it is trained.

    Liger's saves its input in its own dtype, and the factor.
    """
    shape = config.shape
    plain = 2 * FLOAT32 if config.lora is None else FLOAT32
    fused = config.kernels == "liger"
    of_stream, of_head = (stream_bytes(config), config.compute_bytes) if fused else (plain, plain)
    a_norm = of_stream * shape.hidden_size + FLOAT32
    heads = shape.num_heads + shape.num_kv_heads
    inner = heads * (of_head * shape.head_dim + FLOAT32) if shape.qk_norm else 0
    return shape.norms_per_layer * a_norm + inner


def _attention(config: Configuration) -> float:
    """Bytes per token: inputs of the projections, then what the attention kernel saves."""
    shape, compute = config.shape, config.compute_bytes
    query = shape.num_heads * shape.head_dim
    keys = config.key_value_heads * shape.head_dim
    inputs = (3 if config.casts_inputs else 1) * compute * shape.hidden_size
    if (
        config.lora is not None
    ):  # activations between the two adapter matrices; the output's adapter casts too
        inputs += compute * config.lora.rank * len(config.targets)
        inputs += compute * query if config.casts_inputs else 0
    # What attention returns is exchanged, and the output projection saves the copy.
    inputs += compute * query if config.degree > 1 else 0
    if config.attention in (*TAKES_BOUNDARIES, "flex_attention"):  # keys and values without repetition
        return inputs + compute * (2 * query + 2 * keys) + FLOAT32 * shape.num_heads
    repeated = query if config.key_value_heads > config.degree else keys
    saved = inputs + compute * (2 * query + 2 * repeated)
    if config.degree == 1:
        # The rotation leaves float32 keys under autocast, which are cast after they were repeated.
        saved += compute * (query - repeated) if config.autocast else 0
    elif repeated > keys:  # queries, keys and values were received together, and live as long as one of them
        saved += compute * 2 * keys
    if config.attention == "eager":  # all scores, in float32 and in the compute dtype
        a_score = FLOAT32 + (compute if compute != FLOAT32 else 0)
        return saved + a_score * shape.num_heads * config.seq_len
    # Each layer converts the boolean mask to numbers; it is that of whole rows on every rank.
    return saved + FLOAT32 * shape.num_heads + compute * config.seq_len * config.degree


def _feed_forward(config: Configuration) -> float:
    """Bytes per token: inputs of gate and up, the gate before and after its activation, up, and the product.

    Liger's GeGLU saves the gate only before its activation.
    """
    shape, compute = config.shape, config.compute_bytes
    inputs = (2 if config.casts_inputs else 1) * compute * shape.hidden_size
    saved = 3 if config.kernels == "liger" else 4
    return inputs + saved * compute * shape.intermediate_size


def _dora(config: Configuration) -> float:
    """Bytes per token: magnitudes scale the outputs of each matrix and of its adapter, and both are saved."""
    if config.lora is None or not config.lora.use_dora:
        return 0
    outputs = (config.shape.linear_shapes[name][1] for name in config.targets)
    return 2 * config.compute_bytes * sum(outputs)
