"""The header of a card, which the Hugging Face Hub reads: base model, licence, data, results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.results_section import Measured, measured
from gemfit.schemas.evaluation import Interval

DATASET = re.compile(r"[\w.-]+(/[\w.-]+)?")
UNKNOWN_LICENSE = "unknown"


def header(facts: CardFacts) -> ModelCardData:
    """What is known; a licence that nobody has stated is `unknown`."""
    origin, recipe = facts.origin, facts.plan.recipe
    relation: dict[str, Any] = {}
    if origin.hub_id is not None:
        relation["base_model_relation"] = "adapter" if facts.is_adapter else "finetune"
    tags = ["gemfit", *(["lora"] if recipe.model.lora else []), "conversational"]
    results = _results(facts)
    return ModelCardData(
        base_model=origin.hub_id,
        datasets=hub_datasets(facts) or None,
        eval_results=results or None,
        language=list(facts.stated.language) or None,
        library_name="peft" if facts.is_adapter else "transformers",
        license=origin.license or UNKNOWN_LICENSE,
        model_name=facts.name if results else None,
        pipeline_tag="text-generation",
        tags=tags,
        **relation,
    )


def hub_datasets(facts: CardFacts) -> list[str]:
    """Names of the sources that are on the Hub; `hf:` may also name a folder, which is not."""
    sources = [source.source for source in facts.plan.recipe.data.mixture]
    names = [source.removeprefix("hf:") for source in sources if source.startswith("hf:")]
    return [name for name in names if DATASET.fullmatch(name) and not Path(name).exists()]


def _results(facts: CardFacts) -> list[EvalResult]:
    found = measured(facts)
    if found is None:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=next(iter(hub_datasets(facts)), "conversations"),
            dataset_name=f"held-out conversations of {data_name(facts)}",
            dataset_split="validation",
            dataset_revision=facts.plan.pack.fingerprint,
            metric_type=kind,
            metric_name=name,
            metric_value=interval.value,
            metric_args=_interval(found, interval),
        )
        for kind, name, interval in found.metrics
    ]


def data_name(facts: CardFacts) -> str:
    """The sources without the folders that they lie in."""
    return ", ".join(short_source(source.title) for source in facts.plan.recipe.data.mixture)


def short_source(name: str) -> str:
    """A path of this machine as its last part; anything else as it is."""
    if name.startswith("hf:") and DATASET.fullmatch(name.removeprefix("hf:")):
        return name
    return name.rstrip("/").rpartition("/")[2]


def _interval(found: Measured, interval: Interval) -> dict[str, float] | None:
    if found.confidence is None:
        return None
    return {"low": interval.low, "high": interval.high, "confidence": found.confidence}
