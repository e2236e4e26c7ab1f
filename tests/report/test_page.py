"""The page: valid, without network access, safe with hostile texts, and equal to the records."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from gemfit.report.blocks import Chart, ChatBlock, ChatTurn, Page
from gemfit.report.curves import training_charts
from gemfit.report.drawing import draw
from gemfit.report.folds import TOGETHER
from gemfit.report.load import RunReport, load_run
from gemfit.report.page import make_page, render, write_page
from gemfit.schemas.report_facts import RunFacts
from report.conftest import HOSTILE, MakeRun, audit, evaluation, step
from report.parsed_page import ParsedPage, parse_page

SHOWN = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\x00", "⟨U+0000⟩")
PNG = b"\x89PNG\r\n\x1a\n"
Load = Callable[..., RunReport]


@pytest.fixture(scope="module")
def load(make_run: MakeRun) -> Load:
    """A run that was evaluated and audited, with hostile texts."""

    def make(name: str = "run <b>&$x$", **options: object) -> RunReport:
        run = make_run(name, evaluated=evaluation(), audited=audit(), **options)
        return load_run(run.root, RunFacts(no_mfu="the run is on CPUs"))

    return make


def without_pictures(page: Page) -> ParsedPage:
    return parse_page(render(page, lambda chart: Markup("<svg></svg>")))


@pytest.fixture(scope="module")
def written(load: Load, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    """A whole page with its charts, and the files."""
    files = write_page(make_page([load()]), tmp_path_factory.mktemp("out"), lambda name: None)
    return files[0].read_text(encoding="utf-8"), files


def test_the_page_is_valid_and_loads_nothing(written: tuple[str, list[Path]]) -> None:
    text, files = written
    page = parse_page(text)
    assert (page.wrong, page.unclosed) == ([], [])
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names)) > 100, "charts bring names of their own"
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
        for target in re.findall(
            r"url\(([^)]*)\)", attributes.get("style", "") + attributes.get("clip-path", "")
        ):
            assert target.startswith("#")
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert text.count("<style") == 1, "the style of a chart would be the style of the page"
    assert not {"script", "iframe", "object", "embed", "link", "img", "base", "form"} & {
        t for t, _ in page.elements
    }
    policy = next(
        m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    pngs = [path for path in files if path.suffix == ".png"]
    assert len(pngs) == text.count("<figure>") > 12
    assert all(path.read_bytes().startswith(PNG) for path in pngs)


def test_every_reference_inside_the_page_has_its_target(written: tuple[str, list[Path]]) -> None:
    page = parse_page(written[0])
    names = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for name in ("href", "xlink:href"):
            if name in attributes:
                assert attributes[name][1:] in names
        if "clip-path" in attributes:
            assert attributes["clip-path"][5:-1] in names


def test_hostile_texts_are_shown_and_not_obeyed(load: Load) -> None:
    text = render(make_page([load()]), lambda chart: Markup("<svg></svg>"))
    page = parse_page(text)
    assert not {"script", "img", "b"} & {tag for tag, _ in page.elements}
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "49" not in "".join(page.texts["text"]), "no template is run"
    assert page.texts["text"].count(SHOWN) == 2 * (3 + 6 + 3), "each reply of each of two models"
    assert any(SHOWN in note for note in page.texts["note fail"])


def test_names_in_a_chart_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    def draw_axes(axes: Any) -> None:
        axes.set_title("a\u202eb #0072b2 <b>")

    svg = draw(Chart("one", "one bar", draw_axes), tmp_path / "one.png")
    assert "a⟨U+202E⟩b #0072b2 &lt;b&gt;" in svg


def test_a_lone_surrogate_does_not_break_the_file(make_run: MakeRun, tmp_path: Path) -> None:
    report = load_run(make_run().root, RunFacts())
    page = make_page([report])
    odd = Page(**{name: getattr(page, name) for name in page.__slots__} | {"summary": "a \ud800 b"})
    text = render(odd, lambda chart: Markup("<svg></svg>"))
    assert "⟨U+D800⟩" in text
    text.encode("utf-8")


def test_headings_go_down_one_level_at_a_time_and_tables_name_their_heads(load: Load) -> None:
    page = without_pictures(make_page([load()]))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    heads = page.named("th")
    assert heads
    assert {head.get("scope") for head in heads} == {"col", "row"}
    regions = [div for div in page.named("div") if div.get("class") == "scroll"]
    assert len(regions) == len(page.named("table"))
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_every_chart_says_its_numbers_in_words(load: Load) -> None:
    page = without_pictures(make_page([load()]))
    said = [div["aria-label"] for div in page.named("div") if div.get("role") == "img"]
    assert len(said) > 12
    assert all(re.search(r"\d", words) for words in said)
    loss = next(words for words in said if words.startswith("loss by step"))
    assert "from 4.9000 to 2.0000" in loss
    assert "Resumed after step 10, 20." in loss
    captions = page.texts["figcaption"]
    assert captions.count("Attempt 1 interrupted at step 12; Attempt 2 ended at step 20.") == 2
    differences = next(words for words in said if words.startswith("counterfactual: sentiment"))
    assert "gender: a woman: base -0.25 [-0.375, -0.125]" in differences
    assert any("clipped" in words and "30 steps of 30" in words for words in said)


def test_numbers_in_the_page_are_those_of_the_records(load: Load) -> None:
    page = without_pictures(make_page([load()]))
    validation = page.tables["Validation during training"]
    assert [row[:3] for row in validation[1:]] == [
        ["0", "5.1250", "100"],
        ["20", "3.1250", "80"],
        ["30", "2.1250", "70"],
    ]
    models = page.tables["Models"]
    assert models[0] == ["model", "loss", "perplexity", "token accuracy", "loss less that of base"]
    assert models[2][:2] == ["step 30", "2.1250 [2.0250, 2.2250]"]
    assert models[2][3:] == ["40.00% [35.00%, 45.00%]", "-3.0000 [-3.1000, -2.9000]"]
    depths = page.tables["By turn"]
    assert [row[0] for row in depths[1:]] == ["1", "2", "4+"]
    assert page.tables["Tasks of lm-evaluation-harness"][1] == ["piqa", "acc", *["0.6100 ± 0.0200"] * 2]
    assert page.tables["Scores: crisis"][1][:3] == ["help", "50.0% [25.0%, 75.0%]", "50.0% [25.0%, 75.0%]"]
    apart = page.tables["Scores: counterfactual"]
    assert apart[1][:2] == ["sentiment, gender: a woman", "-0.25 [-0.375, -0.125], -0.50 SD"]
    meanings = page.tables["Meaning of the scores: counterfactual"]
    assert meanings[1:] == [["sentiment", "Difference of the tone."]]
    assert page.tables["Settings of the evaluation"][1:] == [
        ["samples.temperature", "0.0"],
        ["samples.longest", "48"],
    ]
    assert page.tables["Versions of the evaluation"][1] == ["torch", "2.13.0"]
    assert page.tables["Memory"][1] == ["rank 0", "1.0 GB", "3.0 GB", "–", "–"]
    assert "MFU is not shown: the run is on CPUs." in page.texts["note plain"]


def test_a_long_conversation_shows_its_last_messages_and_folds_the_others() -> None:
    said = tuple(ChatTurn("user", str(number)) for number in range(5))
    assert (ChatBlock(said, ()).earlier, ChatBlock(said, ()).last) == (said[:3], said[3:])
    assert (ChatBlock(said[:3], ()).earlier, ChatBlock(said[:3], ()).last) == ((), said[:3])


def test_a_suite_without_scores_says_so(make_run: MakeRun) -> None:
    plain = audit()
    bare = plain.model_copy(
        update={"models": tuple(s.model_copy(update={"scores": ()}) for s in plain.models)}
    )
    page = without_pictures(make_page([load_run(make_run(audited=bare).root, RunFacts(), with_pack=False)]))
    assert "This suite has no score." in page.texts["missing"]


def test_severe_findings_come_first(load: Load) -> None:
    text = render(make_page([load()]), lambda chart: Markup("<svg></svg>"))
    assert 0 < text.index("note fail") < text.index("note warn")
    assert text.index("note warn") < text.index("Scores: crisis")


def test_figures_of_the_data_are_those_of_the_pack(load: Load) -> None:
    report = load()
    assert report.pack is not None
    page = without_pictures(make_page([report]))
    train = report.pack.figures["splits"]["train"]
    assert page.tables["Rows"][1][:2] == ["train", f"{train['rows']:,}"]
    conserved = {row[0]: row[-1] for row in page.tables["Token accounting"]}
    assert conserved["in"] == conserved["out"]


def test_what_is_missing_comes_with_the_command_that_makes_it(make_run: MakeRun) -> None:
    run = make_run("a run", records=[step(n, 1) for n in range(1, 4)])
    plan = run.plan()
    gone = plan.model_copy(update={"pack": plan.pack.model_copy(update={"folder": "/nowhere"})})
    run.plan_file.write_text(gone.to_json())
    text = render(make_page([load_run(run.root, RunFacts())]), lambda chart: Markup("<svg></svg>"))
    assert f"gemfit eval &#39;{run.root}&#39;" in text
    assert f"gemfit audit &#39;{run.root}&#39;" in text
    for sentence in (
        "There are no statistics of the data: /nowhere",
        "There was no validation",
        "There is no checkpoint yet",
        "No memory is recorded",
        "not recorded (cpu)",
    ):
        assert sentence in text


def test_the_page_stays_small_however_much_models_say(make_run: MakeRun) -> None:
    run = make_run(audited=audit(text="word " * 1_000, prompts=160))
    text = render(make_page([load_run(run.root, RunFacts())]), lambda chart: Markup("<svg></svg>"))
    assert TOGETHER < len(text) < 1.4 * TOGETHER
    assert f"truncated: 1,000 more characters are in {run.audit_file}" in text
    assert f"truncated: 5,000 more characters are in {run.audit_file}" in text, "the page is full"
    assert "20 more prompts are in" in text


def test_a_step_without_a_norm_does_not_stop_the_report(make_run: MakeRun, tmp_path: Path) -> None:
    records = [step(1, 1), step(2, 1).model_copy(update={"grad_norm": None}), step(3, 1)]
    report = load_run(make_run(records=records).root, RunFacts(), with_pack=False)
    chart = next(chart for chart in training_charts(report) if chart.name == "gradient-norm")
    assert "2 steps of 3 clipped" in chart.alt
    assert "<svg" in draw(chart, tmp_path / "norm.png")
