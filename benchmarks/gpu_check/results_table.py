"""Results as Markdown tables, for the terminal and for docs/gpu.md. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

from catalog import EVERY

BEGIN, END = "<!-- results of make gpu-check -->", "<!-- end of the results -->"
Measured = dict[str, Any]


def table(lines: list[Measured]) -> str:
    """All tables of one check; of a dry run too, under a line that says so."""
    measured = {line["part"]: line.get("measured", {}) for line in lines}
    sections = [
        [_heading(lines, measured)],
        _rows(
            ("part", "result", "seconds"), ((_title(line), _result(line), line["seconds"]) for line in lines)
        ),
        *(section(measured[name]) for name, section in SECTIONS.items() if measured.get(name)),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def page_with(page: str, found: str) -> str:
    """``page`` with ``found`` between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{found}\n\n{END}{after}"


def _heading(lines: list[Measured], measured: dict[str, Measured]) -> str:
    machine = measured.get("machine", {})
    if any(line.get("device") == "cpu" for line in lines):
        return f"**Dry run on a CPU, {date.today()}: that every part works, and nothing about a GPU.**"
    versions = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
    return f"{machine.get('gpu', 'GPU')}, {date.today()}; {versions}."


def _title(line: Measured) -> str:
    return f"{line['part']}: {EVERY[line['part']].title}"


def _result(line: Measured) -> str:
    return "ok" if line["ok"] else f"**failed**: {_cell(line.get('error', ''))[:300]}"


def _engines(found: Measured) -> list[str]:
    head = ("engine", "first loss differs by", "resumed by", "losses after the resume differ by")
    body = (
        (
            one["engine"],
            _small(one["first_loss"]),
            one["resumed_by"],
            one["error"] or _small(one["after_resume"]),
        )
        for one in found.get("engines", [])
    )
    return [*_rows(head, body), "", f"Against strategy single without a stop. {found.get('not_here', '')}."]


def _attentions(found: Measured) -> list[str]:
    timed = sorted({key for one in found.get("attentions", []) for key in one if key.startswith("ms_")})
    head = ("attention", "parameters", "gradient error", *(f"ms, {key[3:]}" for key in timed), "kernels")
    body = (
        (
            one["attention"],
            one["mode"],
            one.get("failed") or _small(one.get("error")),
            *(_number(one.get(key)) for key in timed),
            ", ".join(f"`{name}`" for name in one.get("kernels", [])),
        )
        for one in found.get("attentions", [])
    )
    return [*_rows(head, body), "", _absent(found)]


def _compile(found: Measured) -> list[str]:
    head = (
        "compiled with",
        "frames after the first and the last batch",
        "ms plain",
        "ms compiled",
        "seconds",
    )
    body = (
        (
            one["attention"],
            one.get("failed") or f"{one['frames'][0]}, {one['frames'][-1]}",
            *(_number(one.get(key)) for key in ("ms_plain", "ms_compiled", "seconds")),
        )
        for one in found.get("attentions", [])
    )
    return [*_rows(head, body), "", f"Compiler: {found.get('backend')}. {_absent(found)}"]


def _memory(found: Measured) -> list[str]:
    head = (
        "1b, full fine-tune, segments",
        "tensors, GB: predicted, peak",
        "everything, GB: predicted, reserved",
    )
    return _rows(head, ((name, *_peaks(one)) for name, one in found.items() if isinstance(one, dict)))


def _speed(found: Measured) -> list[str]:
    head = (
        *("model", "trainer", "tokens/s", "MFU", "MFU without output layer"),
        *("tensors, GB: predicted, peak", "everything, GB: predicted, reserved", "W"),
    )
    sizes = {name: one for name, one in found.items() if isinstance(one, dict)}
    body = (
        (
            size,
            side,
            f"{one['tokens_per_second']:,.0f}",
            *(_share(one[f"mfu_{name}"]) for name in ("with_embedding", "without_embedding")),
            *_peaks(one),
            _number(one.get("watts")),
        )
        for size, sides in sizes.items()
        for side, one in sides.items()
        if isinstance(one, dict)
    )
    ratios = [f"gemfit/TRL for {size}: {one['ratio']:.2f}" for size, one in sizes.items() if "ratio" in one]
    notes = [*ratios, f"MFU: {found.get('mfu_convention')}", *filter(None, [found.get("not_here")])]
    return [*_rows(head, body), "", ". ".join(notes) + "."]


def _values(found: Measured) -> list[str]:
    """Single values, one line each."""
    plain = ((key, _cell(value)) for key, value in found.items() if not isinstance(value, list | dict))
    nested = (
        (f"{key}: {name}", _cell(value))
        for key, values in found.items()
        if isinstance(values, dict) and key != "versions"
        for name, value in values.items()
        if not isinstance(value, list | dict)
    )
    return _rows(("value", "measured"), [*plain, *nested])


SECTIONS = {
    "engines": _engines,
    "attention": _attentions,
    "compile": _compile,
    "memory": _memory,
    "speed": _speed,
    "copies": _values,
    "checkpoint_thread": _values,
    "four_bits": _values,
    "lora_base": _values,
    "machine": _values,
}


def _peaks(one: Measured) -> Iterator[str]:
    for predicted, peak in (("predicted_tensors", "peak_tensors"), ("predicted", "peak_reserved")):
        yield f"{_gigabytes(one.get(predicted))}, {_gigabytes(one.get(peak))}"


def _rows(head: Iterable[str], body: Iterable[Iterable[object]]) -> list[str]:
    head = list(head)
    lines = [_line(row) for row in body]
    return [_line(head), "|" + "---|" * len(head), *lines] if lines else []


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _absent(found: Measured) -> str:
    absent = found.get("not_here", {})
    return "Not here: " + "; ".join(f"{name}: {why}" for name, why in absent.items()) + "." if absent else ""


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _gigabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f}"
