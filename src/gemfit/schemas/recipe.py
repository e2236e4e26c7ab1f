"""What to train: model, data, optimisation and strategy. Nothing about a cluster.

Defaults are the values of the reference recipe, so a recipe contains only what it changes. There is no field
without an effect.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gemfit.schemas.base import Contract
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.strategy import Ddp, Strategy

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
MAX_LINE_MIB = 128
Column = Literal[
    "messages",
    "system",
    "tools",
    "weight",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "history",
]
"""Keys of a line that `data.columns` may rename."""
Role = Literal["system", "user", "assistant", "tool"]


def _no_float16(value: object) -> object:
    if value in ("float16", "fp16", "half"):
        raise ValueError(f"activations of Gemma 3 overflow in {value}; use bfloat16 or float32")
    return value


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


class Lora(Contract):
    """Low-rank adapters (peft) instead of a full fine-tune."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear modules that get an adapter."""


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
        "auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"
    ] = "auto"
    """Attention implementation. `auto` takes what is installed and known to work on the GPU."""
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
    def _one_origin(self) -> Self:
        if (self.id is None) == (self.scratch is None):
            raise ValueError("give exactly one of `id` and `scratch`")
        if self.gguf_file is not None and self.id is None:
            raise ValueError("`gguf_file` names a file inside `id`, and there is no `id`")
        if self.scratch is not None and self.tokenizer is not None:
            raise ValueError("a `scratch` model trains its own tokenizer; remove `tokenizer`")
        return self


class SourceRecipe(Contract):
    """One of several sources of conversations."""

    source: str
    """As `data.source`."""
    name: str | None = None
    """What tables call it; `source` when left out."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How often each of its conversations is in an epoch: 0.5 takes every other one, 2.5 takes each twice
    and every other one a third time. Which ones, a hash of content and `seed` decides. A conversation
    of the validation split is never taken twice."""
    hf_config: str | None = None
    """As `data.hf_config`."""
    hf_split: str = "train"
    """As `data.hf_split`."""
    hf_revision: str | None = None
    """As `data.hf_revision`."""

    @property
    def title(self) -> str:
        """The name under which it is counted."""
        return self.name or self.source

    @model_validator(mode="after")
    def _hub_settings_have_effect(self) -> Self:
        _check_hub_settings(self.source, self.hf_config, self.hf_split, self.hf_revision)
        return self


def _expand_validation(value: object) -> object:
    given = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    return tuple({"source": one} if isinstance(one, str) else one for one in given)


class DataRecipe(Contract):
    """Where conversations come from and how they become rows."""

    source: str | None = None
    """File, folder or glob (JSONL, JSON array, CSV, Parquet); or `hf:NAME` for a `datasets` source."""
    sources: tuple[SourceRecipe, ...] = ()
    """Several sources with weights, instead of `source`. A conversation that is in more than one of them
    belongs to the first."""
    hf_config: str | None = None
    """Configuration name of an `hf:` source."""
    hf_split: str = "train"
    """Split of an `hf:` source."""
    hf_revision: str | None = None
    """Branch, tag or commit of a dataset on the Hub, `main` when left out. A plan states the commit."""
    format: Literal["role_markers", "chat_template"] = "role_markers"
    """`role_markers`: `<|role|>`, content, end of sequence. `chat_template`: the tokenizer's own."""
    eos: Literal["token", "literal"] = "token"
    """How `role_markers` ends a message: the tokenizer's EOS token, or the text `<|eos|>`."""
    loss_on: Literal["all", "assistant"] = "all"
    seq_len: Annotated[int, Field(ge=16)] = 1024
    """Tokens in a packed row."""
    overlong: Literal["split", "cut", "truncate", "drop"] = "split"
    """Handling of conversations longer than a row. `split` loses nothing and splits between turns; `cut`
    loses nothing and fills rows to the end, by splitting inside turns."""
    near_duplicates: Literal["ignore", "group", "drop"] = "group"
    """Handling of near-duplicates: `group` keeps them on one side of the validation split, `drop` leaves all
    but one out. A group of more than 1 % of all conversations (and more than 8) shares a template: its
    members are split one by one."""
    near_duplicate_threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.8
    """Estimated Jaccard similarity of 5-gram token sets, without system messages, from which on two
    conversations are near-duplicates."""
    pii: Literal["ignore", "count", "mask"] = "count"
    """PII in contents (e-mail addresses, phone, payment card and bank account numbers): `mask` replaces it by
    `[EMAIL]`, `[PHONE]`, `[CARD]`, `[IBAN]`."""
    max_rows: PositiveInt | None = None
    """Training rows of an epoch at most; a hash of their content decides which conversations stay."""
    validation_share: Share = 0.05
    """Share of conversations in the validation split, chosen by a hash of their content."""
    validation: Annotated[
        tuple[SourceRecipe, ...],
        BeforeValidator(
            _expand_validation, json_schema_input_type=str | SourceRecipe | tuple[str | SourceRecipe, ...]
        ),
    ] = ()
    """A validation split of your own instead of a share: a source as in `source`, or a list as in `sources`.
    Training conversations that are duplicates or near-duplicates of one in it are left out."""
    on_error: Literal["fail", "skip"] = "fail"
    """`skip` continues after a bad line, counts it and lists it in `rejected.jsonl`."""
    columns: dict[Column, str] = Field(default_factory=dict)
    """What keys of a line are called in the data: `{prompt: question, completion: answer}`."""
    roles: dict[str, Role] = Field(default_factory=dict)
    """Further names of roles in the data: `{bot: assistant}`."""
    ignore_columns: tuple[str, ...] = ()
    """Keys of a line that are not read, although they look like a part of the conversation."""
    max_line_mib: Annotated[int, Field(ge=1, le=MAX_LINE_MIB)] = 8
    """Longest line, in MiB. A worker needs a multiple of it as memory."""

    @model_validator(mode="after")
    def _one_validation_split(self) -> Self:
        if self.validation and "validation_share" not in self.model_fields_set:
            self.__dict__["validation_share"] = 0.0  # the default is for recipes without `validation`
        if self.validation and self.validation_share:
            raise ValueError("give `validation` or `validation_share`, not both; set `validation_share: 0`")
        if any(source.weight != 1 for source in self.validation):
            raise ValueError("a source of `validation` has no `weight`: each conversation counts once")
        return self

    @model_validator(mode="after")
    def _eos_has_effect(self) -> Self:
        if self.format == "chat_template" and self.eos == "literal":
            raise ValueError("`eos: literal` has no effect under `format: chat_template`; remove it")
        return self

    @model_validator(mode="after")
    def _one_form_of_sources(self) -> Self:
        if self.sources and self.source is not None:
            raise ValueError("give `source` or `sources`, not both")
        hub_settings = (self.hf_config, self.hf_split, self.hf_revision)
        if self.sources and hub_settings != (None, "train", None):
            raise ValueError(
                "`hf_config`, `hf_split` and `hf_revision` have no effect with `sources`: write them there"
            )
        if not self.sources:
            _check_hub_settings(self.source, *hub_settings)
        titles = [source.title for source in self.all_sources]
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            raise ValueError(f"two sources are called {twice!r}: give each a `name` of its own")
        return self

    @model_validator(mode="after")
    def _columns_are_different(self) -> Self:
        names = list(self.columns.values())
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"`columns` names {twice!r} twice: a key of the data has one meaning")
        if both := next((name for name in names if name in self.ignore_columns), None):
            raise ValueError(f"`columns` names {both!r}, and `ignore_columns` as well: keep one of them")
        return self

    @model_validator(mode="after")
    def _near_duplicate_threshold_has_effect(self) -> Self:
        if self.near_duplicates == "ignore" and self.near_duplicate_threshold != 0.8:
            raise ValueError("`near_duplicate_threshold` has no effect under `near_duplicates: ignore`")
        return self

    @property
    def mixture(self) -> tuple[SourceRecipe, ...]:
        """All sources, in the form of `sources`; empty before any is named."""
        if self.source is None:
            return self.sources
        return (
            SourceRecipe(
                source=self.source,
                hf_config=self.hf_config,
                hf_split=self.hf_split,
                hf_revision=self.hf_revision,
            ),
        )

    @property
    def all_sources(self) -> tuple[SourceRecipe, ...]:
        """``validation`` first, so that a conversation in both belongs to it; then ``mixture``."""
        return (*self.validation, *self.mixture)

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""
        return bool(self.validation or self.validation_share)

    @property
    def label(self) -> str:
        """Names and weights of the sources, for display; empty before any is named."""
        return ", ".join(
            source.title if source.weight == 1 else f"{source.title} x {source.weight:g}"
            for source in self.mixture
        )


def _check_hub_settings(
    source: str | None, hf_config: str | None, hf_split: str, hf_revision: str | None
) -> None:
    if not (source or "").startswith("hf:") and (hf_config, hf_split, hf_revision) != (None, "train", None):
        raise ValueError(
            "`hf_config`, `hf_split` and `hf_revision` have no effect unless `source` begins with `hf:`"
        )


class OptimRecipe(Contract):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak value, reached at the end of the warm-up."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Global gradient norm above which gradients are scaled down."""


class BatchRecipe(Contract):
    """Rows per optimizer step."""

    global_batch_size: PositiveInt = 64
    """Rows in one optimizer step, over all ranks and gradient accumulation steps."""
    max_per_device_batch_size: PositiveInt = 4
    """Upper bound of rows that one rank takes at once."""


class LengthRecipe(Contract):
    """How long to train: `num_epochs`, or `max_steps` instead."""

    num_epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.num_epochs is None) == (self.max_steps is None):
            raise ValueError("give exactly one of `num_epochs` and `max_steps`; set the other to null")
        return self


class CheckpointRecipe(Contract):
    """When to save, and how many to keep."""

    every_steps: PositiveInt = 100
    keep: PositiveInt = 3
    """Number of newest checkpoints that are kept."""
    keep_best: bool = True
    """Keep the one with the lowest validation loss as well, of those saved at an evaluated step."""
    asynchronous: bool = True
    """Continue training while a copy is written, for 12 bytes of host memory per trained parameter."""
    max_lost_steps: PositiveInt | None = None
    """Upper bound of steps lost in a crash: training waits for the save in progress before it exceeds it.
    Default: twice `every_steps`, because a save waits for the one before it."""

    @model_validator(mode="after")
    def _bound_has_effect(self) -> Self:
        if self.max_lost_steps is None:
            return self
        if not self.asynchronous:
            raise ValueError(
                "`max_lost_steps` has no effect without `asynchronous`: a crash costs at most `every_steps`"
            )
        if self.max_lost_steps < self.every_steps:
            raise ValueError(
                f"`max_lost_steps` is {self.max_lost_steps}, but {self.every_steps} steps lie between two "
                f"saves; write at least {self.every_steps}, or a smaller `every_steps`"
            )
        return self


class EarlyStopping(Contract):
    """Early stopping on the validation loss: the run ends before its last step, as completed."""

    patience: PositiveInt
    """Evaluations in a row without an improvement after which the run ends."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest decrease of the validation loss, in nats, that counts as an improvement."""


class EvaluationRecipe(Contract):
    """Evaluation of loss, perplexity and token accuracy on the validation split."""

    every_steps: PositiveInt = 100
    early_stopping: EarlyStopping | None = None


class TrackingRecipe(Contract):
    """Experiment trackers, in addition to the run folder."""

    report_to: tuple[str, ...] = ("tensorboard",)
    """Names that Hugging Face `TrainingArguments.report_to` knows."""
    log_every_steps: PositiveInt = 1


class Recipe(Contract):
    """What is trained; nothing about a cluster."""

    description: str = ""
    """One line for `gemfit recipes list`."""
    model: ModelRecipe
    data: DataRecipe = DataRecipe()
    optim: OptimRecipe = OptimRecipe()
    batch: BatchRecipe = BatchRecipe()
    length: LengthRecipe = LengthRecipe(num_epochs=3)
    strategy: Strategy = Ddp()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    tracking: TrackingRecipe = TrackingRecipe()
    hub: HubRecipe = HubRecipe()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42

    @model_validator(mode="after")
    def _the_best_of_early_stopping_stays(self) -> Self:
        if self.evaluation.early_stopping is None:
            return self
        evaluated, saved = self.evaluation.every_steps, self.checkpoint.every_steps
        if not self.checkpoint.keep_best:
            raise ValueError(
                "`evaluation.early_stopping` needs `checkpoint.keep_best`: the last is not the best"
            )
        if evaluated % saved:
            raise ValueError(
                "`evaluation.early_stopping` needs a checkpoint at each evaluation: `evaluation.every_steps` "
                f"({evaluated}) is not a multiple of `checkpoint.every_steps` ({saved})"
            )
        if not self.data.has_validation:
            raise ValueError(
                "`evaluation.early_stopping` needs a validation split; set `data.validation_share` "
                "or `data.validation`"
            )
        if self.hub.push == "end":
            raise ValueError(
                "`hub.push: end` waits for the last step, which early stopping may skip; use `best`"
            )
        return self

    @model_validator(mode="after")
    def _push_fits(self) -> Self:
        hub = self.hub
        if not hub.merge_adapter and (self.model.lora is None or self.model.id is None):
            raise ValueError("`hub.merge_adapter: false` needs `model.lora` on a `model.id`; remove it")
        if hub.multimodal and self.model.id is None:
            raise ValueError("`hub.multimodal` needs a multimodal `model.id`; remove it")
        if hub.push == "best" and not (self.checkpoint.keep_best and self.data.has_validation):
            raise ValueError("`hub.push: best` needs `checkpoint.keep_best`, and a validation split")
        return self
