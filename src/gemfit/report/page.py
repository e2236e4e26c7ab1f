"""The page: sections in order, charts drawn, everything escaped, one file.

Only the SVG of ``drawing`` is inserted as markup; every other text is escaped by Jinja, and its control and
direction characters are shown by number. The content security policy forbids scripts and the network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gemfit import __version__
from gemfit.control_characters import escape_control_characters
from gemfit.core.atomic_folder import partial_folder
from gemfit.core.one_writer import one_writer
from gemfit.report import inputs, sections
from gemfit.report.audit_section import audit
from gemfit.report.blocks import Chart, Page, Section, Tone
from gemfit.report.compare import comparison
from gemfit.report.drawing import COLOR_RULES, draw
from gemfit.report.evaluation_section import evaluation
from gemfit.report.figures import KeyFigures, key_figures, summarize
from gemfit.report.load import RunReport
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.summary.format import duration, number

logger = logging.getLogger(__name__)

INDEX = "index.html"
TONES: dict[str, Tone] = {
    AttemptOutcome.COMPLETED: "good",
    AttemptOutcome.FAILED: "fail",
    AttemptOutcome.FATAL: "fail",
    AttemptOutcome.CRASHED: "fail",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


def make_page(runs: Sequence[RunReport]) -> Page:
    """The report of the first run, compared with the others if there are any. Draws nothing yet."""
    run, figures = runs[0], key_figures(runs[0])
    compared = [comparison(runs)] if len(runs) > 1 else []
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, gemfit {__version__}"
    return Page(
        title=run.name,
        state=run.state,
        tone=TONES.get(run.state, "plain"),
        summary=summarize(run, figures),
        tiles=_tiles(figures),
        sections=(*compared, *(make(run) for make in PARTS)),
        made=made,
    )


PARTS: tuple[Callable[[RunReport], Section], ...] = (
    sections.training,
    evaluation,
    audit,
    sections.speed,
    sections.attempts,
    sections.checkpoints,
    inputs.data,
    inputs.plan,
    inputs.environment,
)


def write_page(page: Page, folder: Path, progress: Callable[[str], object]) -> list[Path]:
    """The files that were written: the page, and a PNG for each of its charts.

    Calls ``progress(name)`` after each chart. All are written before the first replaces an earlier one.
    """
    index = (folder / INDEX).absolute()
    drawn: list[Path] = []

    with one_writer(index, logger.warning), partial_folder(index) as staged:

        def picture(chart: Chart) -> Markup:
            png = staged / f"{_unused(chart.name, drawn)}.png"
            svg = draw(chart, png)
            drawn.append(png)
            progress(chart.name)
            return Markup(svg)

        (staged / INDEX).write_text(render(page, picture), encoding="utf-8")
        for path in (*drawn, staged / INDEX):
            path.replace(index.with_name(path.name))
    return [folder / INDEX, *(folder / png.name for png in drawn)]


def render(page: Page, picture: Callable[[Chart], Markup]) -> str:
    """The page as HTML text."""
    here = files("gemfit.report")
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.finalize = _shown
    jinja.filters["marked"] = _marked
    jinja.filters["kind"] = lambda block: type(block).__name__
    template = jinja.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    style = Markup((here / "style.css").read_text(encoding="utf-8") + COLOR_RULES)
    return template.render(page=page, style=style, picture=partial(picture))


def _shown(value: object) -> object:
    """Text with control characters shown by number; markup is unchanged."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _SURROGATE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", escape_control_characters(value))


def _marked(text: str) -> Markup:
    """A sentence; text between two backticks is code."""
    parts = text.split("`") if text.count("`") % 2 == 0 else [text]
    forms = ("{}", "<code>{}</code>")
    return Markup("").join(Markup(forms[i % 2]).format(_shown(part)) for i, part in enumerate(parts))


def _unused(name: str, written: Sequence[Path]) -> str:
    taken = {path.stem for path in written}
    return name if name not in taken else _unused(f"{name}-{len(written)}", written)


def _tiles(figures: KeyFigures) -> tuple[tuple[str, str], ...]:
    best = figures.best
    items = [
        ("steps", f"{figures.step:,} / {figures.total_steps:,}"),
        ("best validation loss", f"{best.loss:.4f}" if best else "–"),
        ("its perplexity", f"{best.perplexity:.4g}" if best else "–"),
        ("last training loss", number(figures.loss, ".4f")),
        ("tokens", number(figures.tokens, ",d")),
        ("tokens/s", number(figures.tokens_per_second, ",.0f")),
        ("wall time", duration(figures.wall_seconds)),
    ]
    if figures.mfu is not None:
        items.append(("MFU", f"{figures.mfu:.1%}"))
    return tuple(items)
