"""``#SBATCH`` lines, and what may not stand in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.errors import UserError
from gemfit.schemas.site import Site
from gemfit_launch.slurm.submit.sbatch_quoting import (
    OWNED,
    directive,
    pack_options,
    render_directives,
    sbatch_options,
)

PRINTABLE = st.text(min_size=1).filter(str.isprintable)


def read_as_sbatch_does(line: str) -> list[str]:
    """The words of a directive: blanks part them, ``#`` ends them, a backslash escapes anywhere."""
    words: list[str] = []
    word, is_quoted, escaped = "", False, False
    for character in line.removeprefix("#SBATCH ").rstrip("\n"):
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        elif not is_quoted and character == "#":
            break
        elif not is_quoted and character.isspace():
            words, word = [*words, word] if word else words, ""
        else:
            word += character
    assert not is_quoted, "unmatched"
    return [*words, word] if word else words


@given(value=PRINTABLE)
def test_a_printable_value_is_one_option_and_arrives_unchanged(value: str) -> None:
    (line,) = render_directives([("comment", value)]).splitlines()
    assert read_as_sbatch_does(line) == [f"--comment={value}"]


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "a\x1b[31m", "a\rb", "a\x7f", "\t", "a\u2028b"])
def test_an_unprintable_value_is_refused_and_shown(value: str) -> None:
    with pytest.raises(UserError, match="a job script cannot hold") as refusal:
        directive("comment", value)
    assert repr(value) in str(refusal.value)


def test_an_empty_value_is_refused_because_sbatch_would_take_the_next_word_for_it() -> None:
    with pytest.raises(UserError, match="--comment: is empty"):
        directive("comment", "")


@pytest.mark.parametrize("name", ["nodes=9 --x", "--nodes", "Nodes", "a b", "", "x#y", "-p"])
def test_what_is_no_long_option_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="not the long name"):
        directive(name, "1")


@pytest.mark.parametrize("name", OWNED)
def test_an_option_that_the_launcher_writes_cannot_be_set_in_extra(name: str) -> None:
    with pytest.raises(UserError, match=rf"extra\.{name}: .* decided by") as refusal:
        sbatch_options(Site(name="here", extra={name: "1"}))
    assert OWNED[name] in str(refusal.value)


def test_a_misspelt_extra_option_suggests_its_spelling() -> None:
    with pytest.raises(UserError, match="did you mean 'mail-type'"):
        sbatch_options(Site(name="here", extra={"--mail_type": "END"}))


def test_an_extra_option_without_a_value_stands_alone() -> None:
    options = sbatch_options(Site(name="here", extra={"exclusive": "", "mail-type": "END"}))
    assert render_directives(options) == '#SBATCH --exclusive\n#SBATCH --mail-type="END"\n'


def test_what_chooses_gpu_nodes_does_not_go_with_another_partition_for_packing() -> None:
    site = Site(
        name="here", partition="gpu", qos="fast", constraint="h100", account="us", pack_partition="cpu"
    )
    assert dict(pack_options(site)) == {"partition": "cpu", "account": "us"}
    assert dict(pack_options(site.model_copy(update={"pack_partition": None}))) == dict(sbatch_options(site))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("clusters", "decided by the login node"),
        ("cluster-constraint", "decided by the login node"),
        ("container", "decided by `container`"),
        ("no-kill", "decided by the launcher"),
        ("uid", "decided by the user who submits"),
        ("time-min", "decided by `time`"),
        ("partit", "sbatch would read partit as partition"),
        ("clust", "sbatch would read clust as cluster"),
    ],
)
def test_an_option_that_would_move_or_change_the_job_is_refused(option: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        list(sbatch_options(Site(name="s", extra={option: "x"})))


@pytest.mark.parametrize("option", ["nodelist", "exclusive", "mem-per-gpu", "gres-flags", "begin"])
def test_other_options_are_passed_on(option: str) -> None:
    assert (option, "x") in list(sbatch_options(Site(name="s", extra={option: "x"})))
