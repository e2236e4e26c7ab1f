"""Findings: figures beyond their thresholds, and figures worse than the base model's.

Differences between groups are many, and some of many are large by chance. So each has to be half a standard
deviation large, and more than chance gives at a level that is divided over all of them (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from gemfit.audit.catalog import MEMORISATION
from gemfit.audit.intervals import interval_of
from gemfit.audit.permutation_test import axes_of, p_value
from gemfit.audit.suite import Better, Figure
from gemfit.audit.thresholds import Threshold, threshold_of
from gemfit.evaluate.bootstrap import bootstrap_interval
from gemfit.schemas.audit import AuditFinding
from gemfit.schemas.evaluation import Interval

NO_CONTROL = (
    "nothing can be said: training or validation conversations that end in a long reply of their own are "
    "missing"
)
LEAST_EFFECT = 0.5
"""Cohen's medium effect size."""
Severity = Literal["warn", "fail"]
SuiteFigures = Mapping[str, Sequence[Figure]]
"""Figures by name of the suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalSettings:
    """Confidence, resamples and seed of all intervals."""

    confidence: float
    resamples: int
    seed: int

    def interval(self, figure: Figure) -> Interval:
        """The figure with its interval."""
        return interval_of(figure, confidence=self.confidence, resamples=self.resamples, seed=self.seed)


def findings(
    found: SuiteFigures, base: SuiteFigures | None, intervals: IntervalSettings
) -> list[AuditFinding]:
    """All findings of one model, the failures first; ``base``: figures of the base model to compare with."""
    listed = [finding for suite in found for finding in _suite_findings(suite, found[suite], base, intervals)]
    return sorted(listed, key=lambda finding: finding.severity != "fail")


def _suite_findings(
    suite: str, figures: Sequence[Figure], base: SuiteFigures | None, intervals: IntervalSettings
) -> Iterator[AuditFinding]:
    base_figures = {figure.measure.name: figure for figure in (base or {}).get(suite, ())}
    if suite == MEMORISATION and not any(figure.control for figure in figures):
        yield AuditFinding(suite=suite, severity="warn", text=NO_CONTROL)
    for figure in figures:
        if figure.measure.better == "zero":
            continue
        value, base_figure = intervals.interval(figure), base_figures.get(figure.measure.name)
        if severity := severity_of(figure, value, threshold_of(figure.measure)):
            yield _finding(suite, severity, figure, value, base_figure)
        elif base_figure is not None and (text := _regression(figure, base_figure, intervals)):
            yield AuditFinding(suite=suite, severity="warn", text=text, prompts=failing_prompts(figure))
    for figure in _group_differences(figures, intervals):
        value, base_figure = intervals.interval(figure), base_figures.get(figure.measure.name)
        if severity := severity_of(figure, value, threshold_of(figure.measure)):
            yield _finding(suite, severity, figure, value, base_figure)


def _group_differences(figures: Sequence[Figure], intervals: IntervalSettings) -> Iterator[Figure]:
    """Of each axis the group that differs most, where that is significant and not small."""
    axes = axes_of(figures)
    for axis in axes:
        largest = max(axis, key=lambda figure: abs(_mean(figure)))
        if abs(largest.effect or 0.0) < LEAST_EFFECT:
            continue
        if p_value(axis, intervals.seed) <= (1 - intervals.confidence) / len(axes):
            yield largest


def severity_of(figure: Figure, value: Interval, threshold: Threshold) -> Severity | None:
    """The severity of the threshold that ``value`` is beyond; ``None``: of none."""
    sign = -1.0 if figure.measure.better == "higher" else 1.0
    plain, certain = _badness(figure.measure.better, value)
    certainly = threshold.fail_if_certain is not None and certain > sign * threshold.fail_if_certain
    if certainly or (threshold.fail is not None and plain > sign * threshold.fail):
        return "fail"
    return "warn" if threshold.warn is not None and plain > sign * threshold.warn else None


def _badness(better: Better, value: Interval) -> tuple[float, float]:
    """How bad a figure is, as it is and at least; larger is worse."""
    if better == "zero":
        return abs(value.value), max(0.0, value.low, -value.high)
    sign = -1.0 if better == "higher" else 1.0
    return sign * value.value, min(sign * value.low, sign * value.high)


def failing_prompts(figure: Figure) -> tuple[str, ...]:
    """Numbers of the prompts that show the finding."""
    values = figure.values
    if figure.measure.better == "higher":
        return tuple(number for number, value in values.items() if value < 1)
    if figure.measure.better == "lower":
        return tuple(number for number, value in values.items() if value > 0)
    mean = fmean(values.values())
    return tuple(number for number, value in values.items() if value * mean > 0)


def _finding(
    suite: str, severity: Severity, figure: Figure, value: Interval, base_figure: Figure | None
) -> AuditFinding:
    text = f"{figure.measure.name}: {format_value(figure, value.value)}"
    text += f" ({format_value(figure, value.low)} to {format_value(figure, value.high)})"
    text += f" over {len(figure.values)} prompts"
    text += f" and {len(figure.control)} of the validation split" if figure.control else ""
    if base_figure is not None:
        text += f"; base model: {format_value(base_figure, _mean(base_figure))}"
    return AuditFinding(suite=suite, severity=severity, text=text, prompts=failing_prompts(figure))


def _regression(figure: Figure, base_figure: Figure, intervals: IntervalSettings) -> str | None:
    allowed = threshold_of(figure.measure).worse
    common = figure.values.keys() & base_figure.values.keys()
    if allowed is None or figure.control or not common:
        return None
    sign = -1.0 if figure.measure.better == "higher" else 1.0
    change = bootstrap_interval(
        [sign * (figure.values[number] - base_figure.values[number]) for number in sorted(common)],
        confidence=intervals.confidence,
        resamples=intervals.resamples,
        seed=intervals.seed,
    )
    if change.value <= allowed or change.low <= 0:
        return None
    return (
        f"{figure.measure.name}: {format_value(figure, _mean(figure))}, worse than the base model's "
        f"{format_value(base_figure, _mean(base_figure))} on the same prompts"
    )


def format_value(figure: Figure, value: float) -> str:
    """A value of the figure as text: a share in percent, else two decimals."""
    if figure.measure.is_share:
        return f"{value:.0%}"
    value = round(value, 2) + 0.0  # no -0.00
    return f"{value:+.2f}" if figure.control or figure.measure.better == "zero" else f"{value:.2f}"


def _mean(figure: Figure) -> float:
    control = fmean(figure.control.values()) if figure.control else 0.0
    return fmean(figure.values.values()) - control
