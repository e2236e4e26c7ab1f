"""Section `model` of a recipe: weights, precision, adapters and quantisation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gemfit.schemas.base import Contract, PositiveInt, Share


def _no_float16(value: object) -> object:
    if value in ("float16", "fp16", "half"):
        raise ValueError(f"activations of Gemma 3 overflow in {value}; use bfloat16 or float32")
    return value


TAKES_BOUNDARIES = ("flash_attention_2", "flash_attention_3", "varlen")
"""Attentions that take flattened rows with the boundaries of documents: bfloat16, on GPUs only."""


class ScratchModel(Contract):
    """A Gemma 3 with random weights and a tokenizer trained on the data: for tests and first steps."""

    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Target size of the trained BPE vocabulary; 256 byte tokens and the special tokens included."""
    hidden_size: PositiveInt = 128
    intermediate_size: PositiveInt = 512
    num_hidden_layers: PositiveInt = 6
    num_attention_heads: PositiveInt = 4
    num_key_value_heads: PositiveInt = 1
    head_dim: PositiveInt = 32
    sliding_window: PositiveInt = 128


def _module_names(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(value)  # after this function, strict reading takes no list for a tuple
    if value != "all-linear":
        raise ValueError(f"give a list of names of linear modules, or all-linear; found {value!r}")
    return value


class Lora(Contract):
    """Low-rank adapters (peft) instead of a full fine-tune."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    targets: Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(_module_names)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the linear modules that get an adapter; `all-linear`: every one but the output layer."""
    use_rslora: bool = False
    """rsLoRA: scale adapters by alpha divided by the square root of the rank, not by the rank."""
    use_dora: bool = False
    """DoRA: train the norm of each output row of an adapted matrix apart from its direction."""
    modules_to_save: tuple[Literal["embed_tokens", "lm_head"], ...] = ()
    """Modules of which a copy is trained whole. Where the two share a weight, either name means both."""

    @property
    def label(self) -> str:
        """Method and rank, such as `rsLoRA with DoRA of rank 16`."""
        method = "rsLoRA" if self.use_rslora else "LoRA"
        return f"{method}{' with DoRA' if self.use_dora else ''} of rank {self.rank}"


class Quantization(Contract):
    """Frozen linear layers in 4 bits, by bitsandbytes (QLoRA): an eighth of float32's memory."""

    type: Literal["nf4", "fp4"] = "nf4"
    """The 16 values that a weight may have, as multiples of the largest of its block of 64."""
    double: bool = True
    """Keep the largest value of each block in 8 bits too: 0.127 bits per weight instead of 0.5."""


def _expand_quantization(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class ModelRecipe(Contract):
    """Which weights, in which precision, and what of them is trained."""

    id: str | None = None
    """Hugging Face id, or a local folder. Exactly one of `id` and `scratch` is given."""
    revision: str = "main"
    """Branch, tag or commit of a Hugging Face id."""
    gguf_file: str | None = None
    """File name inside `id` when the weights are in GGUF; they are dequantised to float32."""
    scratch: ScratchModel | None = None
    tokenizer: str | None = None
    """Hugging Face id or local folder of the tokenizer; the model's own when left out."""
    tokenizer_revision: str = "main"
    """Branch, tag or commit of `tokenizer`; the model's own tokenizer is of `revision`."""
    dtype: Annotated[Literal["bfloat16", "float32"], BeforeValidator(_no_float16)] = "bfloat16"
    """Compute precision. Master weights are float32. float16 overflows in Gemma 3 and is refused."""
    attention: Literal[
        "auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "varlen"
    ] = "auto"
    """Attention implementation. `auto` takes what is installed and known to work on the GPU.

    `varlen` is torch's own FlashAttention for packed rows; it needs no package. `auto` takes it if its kernel
    passes a probe on every rank.
    """
    kernels: Literal["none", "liger"] = "none"
    """`liger`: fused norms, GeGLU and rotary positions for Gemma 3 on GPUs, from liger-kernel."""
    compile: bool = False
    """Compile the decoder layers with `torch.compile`: minutes at the start, faster steps after."""
    activation_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    lora: Lora | None = None
    quantization: Annotated[Quantization | None, BeforeValidator(_expand_quantization)] = None
    """Keep frozen weights in 4 bits; needs `lora`. `nf4` is short for `{type: nf4}`."""

    @property
    def tokenizer_source(self) -> tuple[str, str] | None:
        """Name and revision of the tokenizer; `None` where it is trained with the pack."""
        if self.tokenizer is not None and self.tokenizer != self.id:
            return self.tokenizer, self.tokenizer_revision
        return (self.id, self.revision) if self.id is not None else None

    @model_validator(mode="after")
    def _tokenizer_revision_has_effect(self) -> Self:
        if self.tokenizer_revision != "main" and self.tokenizer in (None, self.id):
            raise ValueError("`tokenizer_revision` is of another `tokenizer`; use `revision`")
        return self

    @model_validator(mode="after")
    def _quantization_has_something_to_train(self) -> Self:
        if self.quantization is not None and self.lora is None:
            raise ValueError("`quantization` freezes the weights in 4 bits; add `lora`, or remove it")
        return self

    @model_validator(mode="after")
    def _dora_is_not_compiled(self) -> Self:
        if self.compile and self.lora is not None and self.lora.use_dora:
            raise ValueError(
                "torch cannot compile the DoRA of peft as one graph; set `compile` or `use_dora` to false"
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.id is None) == (self.scratch is None):
            raise ValueError("give exactly one of `id` and `scratch`")
        if self.gguf_file is not None and self.id is None:
            raise ValueError("`gguf_file` names a file inside `id`, and there is no `id`")
        if self.scratch is not None and self.tokenizer is not None:
            raise ValueError("a `scratch` model trains its own tokenizer; remove `tokenizer`")
        return self
