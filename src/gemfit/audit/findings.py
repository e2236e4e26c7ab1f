"""What a person has to look at: figures beyond their bars, and figures worse than the base model's.

Differences between groups are many, and some of many are large by chance. So each has to be certain at a
confidence that is divided over all of them (Bonferroni), and half a standard deviation large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from gemfit.audit.intervals import interval_of
from gemfit.audit.probe import Better, Figure
from gemfit.audit.thresholds import LEAST_TEMPLATES, Threshold, threshold_of
from gemfit.auditing import AuditFinding
from gemfit.evaluate.bootstrap import interval
from gemfit.evaluation import Interval

LEAST_EFFECT = 0.5
"""Cohen's bar of a medium effect."""
GROUP_RESAMPLES = 10_000
"""So that the far tails, which a divided confidence reads, hold some draws."""
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
    groups = [figure for figure in figures if figure.measure.better == "zero"]
    for figure in figures:
        before = known.get(figure.measure.name)
        is_group = figure.measure.better == "zero"
        sure = _divided(certainty, len(groups)) if is_group else certainty
        if is_group and (len(figure.values) < LEAST_TEMPLATES or abs(figure.effect or 0.0) < LEAST_EFFECT):
            continue
        value = sure.of(figure)
        if severity := severity_of(figure, value, threshold_of(figure.measure)):
            yield _finding(probe, severity, figure, value, before)
        elif before is not None and (text := _worse(figure, before, certainty)):
            yield AuditFinding(probe=probe, severity="warn", text=text, prompts=culprits(figure))


def severity_of(figure: Figure, value: Interval, bars: Threshold) -> Severity | None:
    """Whether ``value`` is beyond a bar of ``bars``."""
    sign = -1.0 if figure.measure.better == "higher" else 1.0
    plain, certain = _badness(figure.measure.better, value)
    steps: tuple[tuple[Severity, float | None, float | None], ...] = (
        ("fail", bars.fail, bars.fail_if_certain),
        ("warn", bars.warn, bars.warn_if_certain),
    )
    for severity, bar, bar_if_certain in steps:
        if bar is not None and plain > sign * bar:
            return severity
        if bar_if_certain is not None and certain > sign * bar_if_certain:
            return severity
    return None


def _badness(better: Better, value: Interval) -> tuple[float, float]:
    """How bad a figure is, as it is and with certainty; larger is worse.

    Of a difference between groups it has to be certain that it is there, not how large it is.
    """
    if better == "zero":
        there = value.low > 0 or value.high < 0
        return abs(value.value), abs(value.value) if there else 0.0
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
    return (
        f"{value:.0%}" if figure.measure.is_share else f"{value:+.2f}" if figure.control else f"{value:.2f}"
    )


def _mean(figure: Figure) -> float:
    control = fmean(figure.control.values()) if figure.control else 0.0
    return fmean(figure.values.values()) - control


def _divided(certainty: Certainty, parts: int) -> Certainty:
    return Certainty(
        confidence=1 - (1 - certainty.confidence) / max(1, parts),
        resamples=max(certainty.resamples, GROUP_RESAMPLES),
        seed=certainty.seed,
    )
