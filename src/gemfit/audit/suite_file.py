"""The suites that come with gemfit: YAML files in this folder, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from gemfit.config.yaml_source import load
from gemfit.schemas.audit import AuditedSuite


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """One file: description, prompts, and the other keys that its suite needs."""

    name: str
    about: AuditedSuite
    prompts: tuple[dict[str, Any], ...]
    rest: dict[str, Any]


def read_suite(name: str) -> SuiteFile:
    """The shipped suite ``name``; a broken file is a bug."""
    with as_file(files("gemfit.audit") / "suites" / f"{name}.yaml") as path:
        data = dict(load(path).data)
    prompts = data.pop("prompts")
    numbers = [prompt["id"] for prompt in prompts]
    assert len(set(numbers)) == len(numbers), f"{name}: two prompts have the same id"
    about = AuditedSuite(**{key: data.pop(key) for key in ("purpose", "source", "limits")})
    return SuiteFile(data.pop("name"), about, tuple(prompts), data)


def first(prompts: tuple[dict[str, Any], ...], limit: int | None) -> tuple[dict[str, Any], ...]:
    """At most ``limit`` prompts, spread evenly over the file, so that every kind is among them."""
    if limit is None or limit >= len(prompts):
        return prompts
    return tuple(prompts[index * len(prompts) // limit] for index in range(limit))
