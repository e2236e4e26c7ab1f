"""`model.attention: auto` becomes what is installed and works, and the plan says why."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from fake_nvidia_smi import nvidia_smi
from gemfit.schemas.plan import PackReference, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Container, Site
from gemfit_launch.planning import attention
from gemfit_launch.planning.attention import (
    AttentionFacts,
    attention_facts,
    attention_problems,
    choose_attention,
)
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.replan import _changed, remake
from gemfit_launch.planning.request import Request

__all__ = ["nvidia_smi"]
CARD = Request(name="gemma3/1b-reference").recipe()
GPUS, CPUS = (Topology(nodes=1, ranks_per_node=2, device=device) for device in ("cuda", "cpu"))
BOTH = frozenset({"flash_attention_2", "flash_attention_3"})


def with_model(**changes: object) -> Recipe:
    return CARD.model_copy(update={"model": CARD.model.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("installed", "capability", "head_dim", "expected"),
    [
        (BOTH, (9, 0), 256, "flash_attention_3"),
        (BOTH, (8, 0), 256, "flash_attention_2"),
        (BOTH, (8, 9), 256, "sdpa"),
        (BOTH, (8, 9), 128, "flash_attention_2"),
        (BOTH, (7, 5), 128, "sdpa"),
        (BOTH, None, 256, "sdpa"),
        (BOTH, None, 128, "flash_attention_2"),
        (BOTH, (8, 9), None, "sdpa"),
        ({"flash_attention_2"}, (9, 0), 256, "flash_attention_2"),
        (frozenset(), (9, 0), 256, "sdpa"),
        (None, None, None, "sdpa"),
    ],
)
def test_auto_selects_what_is_installed_and_has_gradients_on_the_gpu(
    installed: frozenset[str] | None,
    capability: tuple[int, int] | None,
    head_dim: int | None,
    expected: str,
) -> None:
    facts = AttentionFacts(installed=installed, capability=capability, head_dim=head_dim)
    found = choose_attention(CARD, GPUS, facts)
    assert found.name == expected
    assert found.because
    assert found.warning is None


def test_rejected_implementations_are_listed_with_the_reason() -> None:
    facts = AttentionFacts(installed=BOTH, capability=(8, 9), head_dim=256)
    found = choose_attention(CARD, GPUS, facts)
    assert found.because == (
        "flash_attention_3: needs a Hopper GPU, not 8.9; "
        "flash_attention_2: no gradients for heads of 256 numbers on 8.9"
    )


@pytest.mark.parametrize(
    ("capability", "dtype", "offered"),
    [
        ((9, 0), "bfloat16", True),
        ((8, 0), "bfloat16", True),
        ((8, 9), "bfloat16", False),
        ((7, 5), "bfloat16", False),
        (None, "bfloat16", True),
        ((9, 0), "float32", False),
    ],
)
def test_where_nothing_is_installed_the_ranks_may_take_what_torch_brings_along(
    capability: tuple[int, int] | None, dtype: str, offered: bool
) -> None:
    facts = AttentionFacts(installed=frozenset(), capability=capability, head_dim=256)
    found = choose_attention(with_model(dtype=dtype), GPUS, facts)
    assert (found.name, found.if_proven) == ("sdpa", "varlen" if offered else None)
    assert found.because.startswith("varlen needs no package and no masks, but is for the ranks") == offered


def test_float32_keeps_auto_away_from_flash_attention() -> None:
    facts = AttentionFacts(installed=BOTH, capability=(9, 0), head_dim=256)
    assert choose_attention(with_model(dtype="float32"), GPUS, facts).name == "sdpa"


def test_on_cpus_auto_is_sdpa_whatever_is_installed() -> None:
    assert choose_attention(CARD, CPUS, AttentionFacts(installed=BOTH)).name == "sdpa"


def test_a_choice_of_ones_own_stays_and_is_warned_about() -> None:
    recipe = with_model(attention="flash_attention_2")
    found = choose_attention(recipe, GPUS, AttentionFacts(installed=frozenset(), capability=(9, 0)))
    assert found.name == "flash_attention_2"
    assert found.warning == "model.attention flash_attention_2: not installed here; auto would take another"


def test_a_plan_keeps_the_reason() -> None:
    pack = PackReference(fingerprint="0" * 32, folder="pack")
    facts = AttentionFacts(installed=BOTH, capability=(9, 0), head_dim=256)
    plan = make_plan(CARD, topology=GPUS, pack=pack, rows=100, rows_are_packed=True, attention=facts)
    assert plan.recipe.model.attention == "flash_attention_3"
    assert plan.attention_because == "it is installed, and packed rows need no mask in it"
    assert plan.attention == "flash_attention_3"


def test_a_plan_says_what_it_leaves_to_the_ranks_and_so_does_that_of_a_resume() -> None:
    pack = PackReference(fingerprint="0" * 32, folder="pack")
    facts = AttentionFacts(installed=frozenset(), capability=(9, 0), head_dim=256)
    plan = make_plan(CARD, topology=GPUS, pack=pack, rows=100, rows_are_packed=True, attention=facts)
    assert plan.attention == "varlen if proven, else sdpa"
    assert plan.recipe.model.attention == "sdpa"
    assert remake(plan, plan.topology, plan.steps).attention == plan.attention
    changed, _ = _changed(plan, Request(name="", settings=("checkpoint.every_steps=7",)), "plan.json")
    assert changed.model.attention == "auto"
    own, _ = _changed(plan, Request(name="", settings=("model.attention=sdpa",)), "plan.json")
    assert own.model.attention == "sdpa"


@pytest.mark.parametrize(
    ("dtype", "topology", "problem"),
    [("bfloat16", CPUS, "needs a GPU"), ("float32", GPUS, "model.dtype is float32")],
)
def test_flash_attention_is_refused_where_it_cannot_work(
    dtype: str, topology: Topology, problem: str
) -> None:
    (found,) = attention_problems(with_model(attention="flash_attention_3", dtype=dtype), topology)
    assert problem in found


@pytest.mark.parametrize(
    ("capability", "head_dim", "warning"),
    [
        ((9, 0), 256, None),
        ((8, 0), 256, None),
        ((8, 9), 128, None),
        ((8, 9), 256, "no gradients for heads of 256 numbers on 8.9"),
        ((7, 5), 128, "needs compute capability 8.0, not 7.5"),
        (None, 256, "the kind of GPU is unknown"),
    ],
)
def test_varlen_needs_no_package_and_has_the_gpus_of_flash_attention_2(
    capability: tuple[int, int] | None, head_dim: int, warning: str | None
) -> None:
    facts = AttentionFacts(installed=frozenset(), capability=capability, head_dim=head_dim)
    found = choose_attention(with_model(attention="varlen"), GPUS, facts)
    assert found.name == "varlen"
    assert found.warning == (warning and f"model.attention varlen: {warning}; auto would take another")
    assert choose_attention(CARD, GPUS, facts).name == "sdpa"  # it was never seen on a GPU


@pytest.mark.parametrize(
    ("dtype", "topology", "problem"),
    [
        ("bfloat16", CPUS, "model.attention varlen needs a GPU; use sdpa or auto"),
        ("float32", GPUS, "model.attention varlen computes in bfloat16 only"),
    ],
)
def test_varlen_is_refused_where_it_cannot_work(dtype: str, topology: Topology, problem: str) -> None:
    (found,) = attention_problems(with_model(attention="varlen", dtype=dtype), topology)
    assert problem in found
    assert attention_problems(with_model(attention="varlen"), GPUS) == []


def test_flex_attention_is_refused_on_cpus_where_it_has_no_backward_pass() -> None:
    (found,) = attention_problems(with_model(attention="flex_attention"), CPUS)
    assert "no backward pass on CPUs" in found
    assert attention_problems(with_model(attention="flex_attention"), GPUS) == []


def test_a_kernel_in_the_hub_cache_counts_as_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: name == "kernels" or None)
    assert list(attention._installed({"HF_HUB_CACHE": str(tmp_path)})) == []
    (tmp_path / "models--kernels-community--flash-attn2" / "snapshots" / "abc").mkdir(parents=True)
    assert list(attention._installed({"HF_HUB_CACHE": str(tmp_path)})) == ["flash_attention_2"]


@pytest.mark.parametrize(
    ("distributions", "found"),
    [
        ({"flash-attn": "2.8.3"}, ["flash_attention_2"]),
        ({"flash-attn": "2.8.3+cu13torch2.13"}, ["flash_attention_2"]),
        ({"flash-attn": "2.3.2"}, []),
        ({"flash-attn": "1.0.9"}, []),
        ({"flash-attn-4": "4.0.0"}, []),
        ({"flash-attn-3": "3.0.0"}, ["flash_attention_3"]),
        ({"flash-attn": "2.8.3", "flash-attn-3": "3.0.0"}, ["flash_attention_2", "flash_attention_3"]),
        ({"some-fork": "1.0"}, []),
    ],
)
def test_packages_count_by_the_distribution_that_transformers_asks_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, distributions: dict[str, str], found: list[str]
) -> None:
    def version(name: str) -> str:
        if name not in distributions:
            raise metadata.PackageNotFoundError(name)
        return distributions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(attention, "find_spec", lambda name: True)  # all have a module of this name
    assert list(attention._installed({"HF_HUB_CACHE": str(tmp_path)})) == found


@pytest.mark.parametrize(
    ("site", "known"),
    [
        (Site(name="c", gpu_kind="h100"), True),
        (Site(name="c", gpu_kind="h100", python=sys.executable), True),
        (Site(name="c", gpu_kind="h100", python="/opt/python3"), False),
        (Site(name="c", gpu_kind="h100", container=Container(kind="apptainer", image="a.sif")), False),
    ],
)
def test_packages_of_the_python_that_submits_say_nothing_about_another(
    monkeypatch: pytest.MonkeyPatch, site: Site, known: bool
) -> None:
    monkeypatch.setattr(attention, "_installed", lambda environment: iter(BOTH))
    facts = attention_facts(CARD, GPUS, site)
    found = choose_attention(CARD, GPUS, facts)
    assert found.name == ("flash_attention_3" if known else "sdpa")
    assert (found.warning is None) is known
    if not known:
        assert "is not known here" in found.because
        assert "set model.attention to flash_attention_3 or flash_attention_2" in (found.warning or "")
        assert found.if_proven == "varlen"
        assert choose_attention(with_model(dtype="float32"), GPUS, facts).warning is None
        assert choose_attention(with_model(attention="flash_attention_2"), GPUS, facts).warning is None


def test_the_hub_cache_of_a_site_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: name == "kernels" or None)
    (tmp_path / "hub" / "models--kernels-community--flash-attn2" / "snapshots" / "abc").mkdir(parents=True)
    site = Site(name="c", gpu_kind="h100", env={"HF_HOME": str(tmp_path)})
    assert attention_facts(CARD, GPUS, site).installed == frozenset({"flash_attention_2"})
