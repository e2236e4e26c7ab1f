"""Section `data` of a recipe: where conversations come from and how they become rows."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gemfit.schemas.base import Contract, PositiveInt, Share

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
