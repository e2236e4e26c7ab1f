"""YAML metadata of a model card for the Hugging Face Hub: base model, licence, data, results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gemfit.modelcard.facts import CardFacts
from gemfit.modelcard.results_section import HubMetric, hub_metrics
from gemfit.summary.markdown import printable

DATASET = re.compile(r"[\w.-]+(/[\w.-]+)?")
UNKNOWN_LICENSE = "unknown"


def header(facts: CardFacts) -> ModelCardData:
    """Everything that is recorded; a licence that was not stated is `unknown`."""
    base, recipe = facts.base_model, facts.plan.recipe
    relation: dict[str, Any] = {}
    if base.hub_id is not None:
        relation["base_model_relation"] = "adapter" if facts.is_adapter else "finetune"
    tags = ["gemfit", *(["lora"] if recipe.model.lora else []), "conversational"]
    results = _results(facts)
    return ModelCardData(
        base_model=base.hub_id,
        datasets=hub_datasets(facts) or None,
        eval_results=results or None,
        language=list(facts.user.language) or None,
        library_name="peft" if facts.is_adapter else "transformers",
        license=base.license or UNKNOWN_LICENSE,
        model_name=printable(facts.name) if results else None,
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
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=next(iter(hub_datasets(facts)), "conversations"),
            dataset_name=f"validation split of {printable(data_name(facts))}",
            dataset_split="validation",
            dataset_revision=facts.plan.pack.fingerprint,
            metric_type=metric.kind,
            metric_name=metric.name,
            metric_value=metric.value.value,
            metric_args=_interval(metric),
        )
        for metric in hub_metrics(facts)
    ]


def data_name(facts: CardFacts) -> str:
    """The sources without the folders that they lie in."""
    return ", ".join(short_source(source.title) for source in facts.plan.recipe.data.mixture)


def short_source(name: str) -> str:
    """A path of this machine as its last part; anything else as it is."""
    if name.startswith("hf:") and DATASET.fullmatch(name.removeprefix("hf:")):
        return name
    return name.rstrip("/").rpartition("/")[2]


def _interval(metric: HubMetric) -> dict[str, float] | None:
    if metric.confidence is None:
        return None
    return {"low": metric.value.low, "high": metric.value.high, "confidence": metric.confidence}
