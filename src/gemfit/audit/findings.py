"""What a person has to look at: figures beyond their bars, and figures worse than the base model's.

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
from gemfit.audit.permutation_test import axes_of, chance
from gemfit.audit.suite import Better, Figure
from gemfit.audit.thresholds import Threshold, threshold_of
from gemfit.evaluate.bootstrap import interval
from gemfit.schemas.audit import AuditFinding
from gemfit.schemas.evaluation import Interval

NO_CONTROL = (
    "nothing can be said: trained or held-out conversations that end in a long reply of their own are missing"
)
LEAST_EFFECT = 0.5
"""Cohen's bar of a medium effect."""
Severity = Literal["warn", "fail"]
Found = Mapping[str, Sequence[Figure]]
"""Figures by name of the suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """How intervals are made."""

    confidence: float
    resamples: int
    seed: int

    def of(self, figure: Figure) -> Interval:
        """The figure with its interval."""
        return interval_of(figure, confidence=self.confidence, resamples=self.resamples, seed=self.seed)


def findings(found: Found, base: Found | None, certainty: Certainty) -> list[AuditFinding]:
    """All findings of one model, the failures first; ``base`` is what it is compared with, if anything."""
    listed = [finding for probe in found for finding in _of_probe(probe, found[probe], base, certainty)]
    return sorted(listed, key=lambda finding: finding.severity != "fail")


def _of_probe(
    probe: str, figures: Sequence[Figure], base: Found | None, certainty: Certainty
) -> Iterator[AuditFinding]:
    known = {figure.measure.name: figure for figure in (base or {}).get(probe, ())}
    if probe == MEMORISATION and not any(figure.control for figure in figures):
        yield AuditFinding(probe=probe, severity="warn", text=NO_CONTROL)
    for figure in figures:
        if figure.measure.better == "zero":
            continue
        value, before = certainty.of(figure), known.get(figure.measure.name)
        if severity := severity_of(figure, value, threshold_of(figure.measure)):
            yield _finding(probe, severity, figure, value, before)
        elif before is not None and (text := _worse(figure, before, certainty)):
            yield AuditFinding(probe=probe, severity="warn", text=text, prompts=culprits(figure))
    for figure in _different(figures, certainty):
        value, before = certainty.of(figure), known.get(figure.measure.name)
        if severity := severity_of(figure, value, threshold_of(figure.measure)):
            yield _finding(probe, severity, figure, value, before)


def _different(figures: Sequence[Figure], certainty: Certainty) -> Iterator[Figure]:
    """Of each axis the group that differs most, where that is more than chance and not small."""
    axes = axes_of(figures)
    for axis in axes:
        largest = max(axis, key=lambda figure: abs(_mean(figure)))
        if abs(largest.effect or 0.0) < LEAST_EFFECT:
            continue
        if chance(axis, certainty.seed) <= (1 - certainty.confidence) / len(axes):
            yield largest


def severity_of(figure: Figure, value: Interval, bars: Threshold) -> Severity | None:
    """Whether ``value`` is beyond a bar of ``bars``."""
    sign = -1.0 if figure.measure.better == "higher" else 1.0
    plain, certain = _badness(figure.measure.better, value)
    certainly = bars.fail_if_certain is not None and certain > sign * bars.fail_if_certain
    if certainly or (bars.fail is not None and plain > sign * bars.fail):
        return "fail"
    return "warn" if bars.warn is not None and plain > sign * bars.warn else None


def _badness(better: Better, value: Interval) -> tuple[float, float]:
    """How bad a figure is, as it is and at least; larger is worse."""
    if better == "zero":
        return abs(value.value), max(0.0, value.low, -value.high)
    sign = -1.0 if better == "higher" else 1.0
    return sign * value.value, min(sign * value.low, sign * value.high)


def culprits(figure: Figure) -> tuple[str, ...]:
    """Numbers of the prompts that make the figure what it is."""
    values = figure.values
    if figure.measure.better == "higher":
        return tuple(number for number, value in values.items() if value < 1)
    if figure.measure.better == "lower":
        return tuple(number for number, value in values.items() if value > 0)
    mean = fmean(values.values())
    return tuple(number for number, value in values.items() if value * mean > 0)


def _finding(
    probe: str, severity: Severity, figure: Figure, value: Interval, before: Figure | None
) -> AuditFinding:
    text = f"{figure.measure.name}: {shown(figure, value.value)}"
    text += f" ({shown(figure, value.low)} to {shown(figure, value.high)}) over {len(figure.values)} prompts"
    text += f" and {len(figure.control)} held-out ones" if figure.control else ""
    if before is not None:
        text += f"; base model: {shown(before, _mean(before))}"
    return AuditFinding(probe=probe, severity=severity, text=text, prompts=culprits(figure))


def _worse(figure: Figure, before: Figure, certainty: Certainty) -> str | None:
    allowed = threshold_of(figure.measure).worse
    common = figure.values.keys() & before.values.keys()
    if allowed is None or figure.control or not common:
        return None
    sign = -1.0 if figure.measure.better == "higher" else 1.0
    change = interval(
        [sign * (figure.values[number] - before.values[number]) for number in sorted(common)],
        confidence=certainty.confidence,
        resamples=certainty.resamples,
        seed=certainty.seed,
    )
    if change.value <= allowed or change.low <= 0:
        return None
    return (
        f"{figure.measure.name}: {shown(figure, _mean(figure))}, worse than the base model's "
        f"{shown(before, _mean(before))} on the same prompts"
    )


def shown(figure: Figure, value: float) -> str:
    """A value of the figure for a person."""
    if figure.measure.is_share:
        return f"{value:.0%}"
    value = round(value, 2) + 0.0  # no -0.00
    return f"{value:+.2f}" if figure.control or figure.measure.better == "zero" else f"{value:.2f}"


def _mean(figure: Figure) -> float:
    control = fmean(figure.control.values()) if figure.control else 0.0
    return fmean(figure.values.values()) - control
