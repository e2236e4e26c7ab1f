"""Write the configuration files of ``accelerate`` and DeepSpeed, and the resolved recipe, into a run folder.

They are written again before every attempt, because they hold the run folder's absolute path.
"""

from __future__ import annotations

import io
import json
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from gemfit.config.yaml_source import YamlDocument
from gemfit.core.atomic_file import write_atomic
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.accelerate import RUN_DIR

ORIGIN_COLUMN = 40
YAML_1_1_BOOLEANS = ("y", "n", "yes", "no", "on", "off", "true", "false")


def write_configs(run: RunDir, plan: Plan) -> None:
    """Write ``recipe.yaml``, ``accelerate.yaml`` and, under DeepSpeed, ``deepspeed.json``."""
    write_atomic(run.recipe_file, recipe_yaml(plan.recipe))
    write_atomic(run.accelerate_file, accelerate_yaml(plan, str(run.root.resolve())))
    if plan.deepspeed is not None:
        write_atomic(run.deepspeed_file, deepspeed_json(plan))
    else:
        run.deepspeed_file.unlink(missing_ok=True)  # of an attempt under another strategy


def recipe_yaml(recipe: Recipe, origins: YamlDocument | None = None) -> str:
    """The recipe as YAML that loads back equal; with ``origins``, each line names its source."""
    data = recipe.model_dump(mode="json")
    return to_yaml(data if origins is None else _commented(data, (), origins))


def accelerate_yaml(plan: Plan, run_dir: str = RUN_DIR) -> str:
    """The configuration of ``accelerate launch`` for a run in this folder."""
    return to_yaml(_quoted(in_folder(plan.accelerate, run_dir)))


def deepspeed_json(plan: Plan) -> str:
    """The configuration of DeepSpeed."""
    return json.dumps(plan.deepspeed, indent=2) + "\n"


def in_folder(value: Any, run_dir: str) -> Any:
    """``value`` with the run folder filled in, at any depth."""
    if isinstance(value, str):
        return value.replace(RUN_DIR, run_dir)
    if isinstance(value, dict):
        return {key: in_folder(inner, run_dir) for key, inner in value.items()}
    return [in_folder(inner, run_dir) for inner in value] if isinstance(value, list | tuple) else value


def to_yaml(data: Any) -> str:
    """YAML 1.2, block style."""
    yaml = YAML()
    yaml.width = 1000
    # ruamel writes an empty value for null, which looks like a mistake.
    yaml.representer.add_representer(
        type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    """accelerate reads YAML 1.1, where a bare ``no`` is false."""
    if isinstance(value, dict):
        return {key: _quoted(inner) for key, inner in value.items()}
    ambiguous = isinstance(value, str) and value.lower() in YAML_1_1_BOOLEANS
    return SingleQuotedScalarString(value) if ambiguous else value


def _commented(data: dict[str, Any], path: tuple[str, ...], origins: YamlDocument) -> CommentedMap:
    commented = CommentedMap()
    for key, value in data.items():
        here = (*path, key)
        if isinstance(value, dict):
            commented[key] = _commented(value, here, origins)
            continue
        commented[key] = value
        if not isinstance(value, list):
            commented.yaml_add_eol_comment(_origin(here, origins), key, column=ORIGIN_COLUMN)
    return commented


def _origin(path: tuple[str, ...], origins: YamlDocument) -> str:
    """Where the value at ``path`` was written; a name like ``zero3`` stands for several values."""
    for end in range(len(path), 0, -1):
        if path[:end] in origins.places:
            return origins.places[path[:end]] if end == len(path) or path[0] == "strategy" else "default"
    return "default"
