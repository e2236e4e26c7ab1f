"""Select the attention implementation of a run, from installed packages and the kind of GPU.

That it keeps documents apart is checked by the self-test on the loaded model, before the first step.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gemfit.core.hub_commit import hub_cache
from gemfit.schemas.batch import Batch
from gemfit.schemas.plan import Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import TAKES_BOUNDARIES
from gemfit.schemas.site import Site
from gemfit_launch.planning.compute_capability import Capability, capability_here, capability_of, dotted
from gemfit_launch.predict.attention_masks import is_too_large
from gemfit_launch.predict.gpu_specs import GpuSpec, guess_gpu
from gemfit_launch.predict.shape_lookup import find_shape

WIDE_HEAD = 192
"""FlashAttention 2 has gradients of wider heads on A100 and H100 alone (Dao-AILab/flash-attention #775)."""
WIDE_HEADS_ON: tuple[Capability, ...] = ((8, 0), (9, 0))
PART_OF_TORCH: Final = "varlen"
"""FlashAttention 2 as torch brings it along: nothing is installed for it, and its GPUs are the same."""
PREFERRED = ("flash_attention_3", "flash_attention_2")
DISTRIBUTIONS = {
    "flash_attention_2": ("flash-attn", "flash_attn"),
    "flash_attention_3": ("flash-attn-3", "flash_attn_interface"),
}
"""Distributions that transformers asks for, and their modules: FlashAttention 4 is a ``flash_attn``, too."""
OLDEST_FLASH_2 = (2, 3, 3)
"""The oldest that transformers takes."""
HUB_KERNELS = {"flash_attention_2": "flash-attn2", "flash_attention_3": "vllm-flash-attn3"}
"""Kernels that transformers loads from kernels-community through the package `kernels`."""
LONG_ROW = 4096
"""Tokens above which masks of whole rows cost memory and time that matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionFacts:
    """Inputs of the selection; ``None`` is unknown."""

    installed: frozenset[str] | None = None
    """Those of ``flash_attention_2`` and ``flash_attention_3`` that can be imported."""
    elsewhere: str | None = None
    """The Python that trains, where it is not the one that plans; ``installed`` is unknown then."""
    capability: Capability | None = None
    head_dim: int | None = None


class Attention(NamedTuple):
    """The selected implementation, why it was selected, and a warning if there is one."""

    name: str
    because: str
    warning: str | None = None
    if_proven: Literal["varlen"] | None = None
    """A faster one, for the ranks to take if a probe shows that it is right; nobody knows before."""


def choose_attention(recipe: Recipe, topology: Topology, facts: AttentionFacts) -> Attention:
    """The attention of a run; ``auto`` never selects one that is known to fail on this GPU."""
    asked = recipe.model.attention
    if asked != "auto":
        looked = asked in TAKES_BOUNDARIES and facts.installed is not None
        why_not = _why_not(asked, recipe, facts) if looked else None
        warning = f"model.attention {asked}: {why_not}; auto would take another" if why_not else None
        return Attention(asked, "the recipe says so", warning)
    if topology.device == "cpu":
        return Attention("sdpa", "the fastest on CPUs")
    if facts.elsewhere is not None:
        return _without_knowledge(recipe, facts, facts.elsewhere)
    reasons = []
    for name in PREFERRED:
        why_not = _why_not(name, recipe, facts)
        if why_not is None:
            return Attention(name, "it is installed, and packed rows need no mask in it")
        reasons.append(f"{name}: {why_not}")
    return _or_part_of_torch(Attention("sdpa", "; ".join(reasons)), recipe, facts)


def _without_knowledge(recipe: Recipe, facts: AttentionFacts, elsewhere: str) -> Attention:
    """What runs with any installation; a warning where one that is faster may be in it."""
    because = f"what is installed in {elsewhere} is not known here"
    if_installed = replace(facts, installed=frozenset(PREFERRED))
    faster = [name for name in PREFERRED if _why_not(name, recipe, if_installed) is None]
    warning = f"{because}; if it has flash-attn, set model.attention to {' or '.join(faster)}"
    return _or_part_of_torch(Attention("sdpa", because, warning if faster else None), recipe, facts)


def _or_part_of_torch(otherwise: Attention, recipe: Recipe, facts: AttentionFacts) -> Attention:
    """``varlen`` where the ranks find it right, unless it is known to fail; else ``otherwise``."""
    # A GPU that is not known here is known to the ranks.
    known = facts if facts.capability is not None else replace(facts, capability=WIDE_HEADS_ON[-1])
    if _why_not(PART_OF_TORCH, recipe, known) is not None:
        return otherwise
    because = (
        f"{PART_OF_TORCH} needs no package and no masks, but is for the ranks to prove; {otherwise.because}"
    )
    return otherwise._replace(because=because, if_proven=PART_OF_TORCH)


def attention_problems(recipe: Recipe, topology: Topology) -> list[str]:
    """Combinations that cannot work with any installation."""
    asked = recipe.model.attention
    if asked == "flex_attention" and topology.device == "cpu":
        return ["model.attention flex_attention has no backward pass on CPUs; use sdpa or auto"]
    if asked not in TAKES_BOUNDARIES:
        return []
    if topology.device == "cpu":
        return [f"model.attention {asked} needs a GPU; use sdpa or auto"]
    if recipe.model.dtype == "float32":
        return [f"model.attention {asked} computes in bfloat16 only, and model.dtype is float32; use sdpa"]
    return []


def mask_problem(attention: str, batch: Batch) -> str | None:
    """Why the attention masks of a batch are too large for ``attention``; ``None`` if they are not."""
    numbers = batch.per_device_batch_size * batch.seq_len**2
    if not is_too_large(attention, batch.per_device_batch_size, batch.seq_len):
        return None
    size = f"{batch.per_device_batch_size} x {batch.seq_len:,} x {batch.seq_len:,}"
    fewer = "a smaller batch.max_per_device_batch_size or " if batch.per_device_batch_size > 1 else ""
    return (
        f"model.attention {attention} needs masks of {size} = {numbers / 2**30:.0f} GiB, whole on every GPU; "
        f"use flash_attention_2, flash_attention_3, varlen or flex_attention, which need none, or "
        f"{fewer}a shorter data.seq_len"
    )


def possible_attentions(recipe: Recipe, gpu: GpuSpec, head_dim: int) -> tuple[str, ...]:
    """What a run with `auto` may have on ``gpu``: for long rows also one without masks or packages."""
    asked = recipe.model.attention
    if asked != "auto":
        return (asked,)
    if recipe.data.seq_len <= LONG_ROW:
        return ("sdpa",)
    facts = AttentionFacts(capability=capability_of(gpu), head_dim=head_dim)
    return ("sdpa", "flex_attention" if _why_not(PART_OF_TORCH, recipe, facts) else PART_OF_TORCH)


def attention_facts(recipe: Recipe, topology: Topology, site: Site | None) -> AttentionFacts:
    """Read installed packages, the GPU of the site or of this machine, and the model's shape."""
    if topology.device == "cpu":
        return AttentionFacts()
    shape = find_shape(recipe.model).shape
    elsewhere = _runs_elsewhere(site)
    environment = {**os.environ, **(site.env if site is not None else {})}
    return AttentionFacts(
        installed=None if elsewhere else frozenset(_installed(environment)),
        elsewhere=elsewhere,
        capability=capability_of(guess_gpu(site.gpu_kind)) if site is not None else capability_here(),
        head_dim=shape.head_dim if shape is not None else None,
    )


def _why_not(name: str, recipe: Recipe, facts: AttentionFacts) -> str | None:
    """Why ``name`` cannot be selected; ``None`` if it can."""
    if name != PART_OF_TORCH and name not in (facts.installed or ()):
        return "not installed here"
    if recipe.model.dtype == "float32":
        return "computes in bfloat16 only"
    if facts.capability is None:
        # Heads of the smaller models are wide, and a GPU that fails with them does so in the backward pass.
        narrow = facts.head_dim is not None and facts.head_dim <= WIDE_HEAD
        return None if narrow and name != "flash_attention_3" else "the kind of GPU is unknown"
    if name == "flash_attention_3":
        return None if facts.capability == (9, 0) else f"needs a Hopper GPU, not {dotted(facts.capability)}"
    if facts.capability < (8, 0):
        return f"needs compute capability 8.0, not {dotted(facts.capability)}"
    if (facts.head_dim or WIDE_HEAD + 1) > WIDE_HEAD and facts.capability not in WIDE_HEADS_ON:
        return (
            f"no gradients for heads of {facts.head_dim or 'unknown'} numbers on {dotted(facts.capability)}"
        )
    return None


def _runs_elsewhere(site: Site | None) -> str | None:
    """The Python of ``site``, where it is not this one; what is installed in it cannot be read here."""
    if site is None:
        return None
    if site.container is not None:
        return f"the container of site {site.name}"
    other = site.python is not None and Path(site.python) != Path(sys.executable)
    return f"{site.python} of site {site.name}" if other else None


def _installed(environment: Mapping[str, str]) -> Iterator[str]:
    for name, distribution in DISTRIBUTIONS.items():
        if _is_installed(*distribution) or _hub_kernel(name, environment):
            yield name


def _is_installed(distribution: str, module: str) -> bool:
    """Whether transformers would take ``module``: other distributions have a module of the same name."""
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    if distribution == "flash-attn" and tuple(map(int, re.findall(r"\d+", version)[:3])) < OLDEST_FLASH_2:
        return False
    return find_spec(module) is not None


def _hub_kernel(name: str, environment: Mapping[str, str]) -> bool:
    """Whether transformers would find this kernel without a network."""
    if find_spec("kernels") is None:
        return False
    return any(hub_cache(environment).glob(f"*--kernels-community--{HUB_KERNELS[name]}/snapshots/*"))
