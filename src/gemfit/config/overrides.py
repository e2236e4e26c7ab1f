"""From YAML to a contract: ``--set a.b=c``, validation, and errors that name place, value and way out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gemfit.config.yaml_source import KeyPath, YamlDocument, parse
from gemfit.errors import UserError, did_you_mean
from gemfit.schemas.base import Contract
from gemfit.schemas.strategy import STRATEGY_NAMES, strategy_from_name

Model = TypeVar("Model", bound=Contract)
ONE_OF = {
    "length.num_epochs": ("length.max_steps", "null"),
    "length.max_steps": ("length.num_epochs", "null"),
    "data.source": ("data.sources", "[]"),
    "data.sources": ("data.source", "null"),
}
"""For each of two settings that exclude each other, the other one and how it is left out."""
EXAMPLES = {"--set": "--set optim.learning_rate=5e-5", "--site-set": "--site-set partition=gpu"}


def build(model: type[Model], document: YamlDocument) -> Model:
    """Validate ``document`` as ``model``; one error reports all mistakes, one per line."""
    try:
        # Through JSON, because there strict mode still takes a list for a tuple.
        return model.model_validate_json(json.dumps(document.data, default=str))
    except ValidationError as error:
        lines = dict.fromkeys(_explain(model, document, detail) for detail in error.errors())
        raise UserError("\n".join(lines)) from None


def with_settings(
    model: type[Contract], document: YamlDocument, settings: Iterable[str], *, option: str = "--set"
) -> YamlDocument:
    """``document`` with each ``a.b=c`` on top, the value read as the type that the field has.

    ``option`` is the command-line option that errors name.
    """
    settings = list(settings)
    for setting in _other_form_left_out(settings):
        dotted, equals, text = setting.partition("=")
        place = f"{option} {setting}"
        if not equals or not dotted:
            raise UserError(f"{place}: write it as key=value, for example {EXAMPLES[option]}")
        path = tuple(dotted.split("."))
        value = _typed(annotation_at(model, path, place), text, place)
        document = _nested(path, value, place).over(_spelled_out(document))
    return document


def _other_form_left_out(settings: list[str]) -> list[str]:
    """A length or a source given here replaces the recipe's, whichever of the two forms that has."""
    given = dict(setting.partition("=")[::2] for setting in settings)
    others = [ONE_OF[key] for key, text in given.items() if key in ONE_OF and text not in ("null", "[]")]
    return [f"{key}={nothing}" for key, nothing in others if key not in given] + settings


def _spelled_out(document: YamlDocument) -> YamlDocument:
    """A strategy given by its short name becomes a mapping, so that one of its keys can be set."""
    name = document.data.get("strategy")
    if name not in STRATEGY_NAMES:
        return document
    return replace(document, data=document.data | {"strategy": strategy_from_name(name)})


def annotation_at(model: type[BaseModel], path: tuple[str, ...], place: str) -> Any:
    """The annotation of the field at ``path``; an unknown key is a ``UserError``."""
    annotation: Any = model
    for depth, key in enumerate(path):
        if get_origin(annotation) is dict:  # any key, such as the name of a variable
            annotation = get_args(annotation)[1]
            continue
        fields = _fields(annotation)
        if key not in fields:
            dotted = ".".join(path[: depth + 1])
            raise UserError(f"{place}: {_unknown(dotted, key, list(fields))}")
        annotation = fields[key]
    return annotation


def _typed(annotation: Any, text: str, place: str) -> Any:
    """Text is text where the field takes text; elsewhere it is read as YAML."""
    try:
        value = parse(f"value: {text}", place).data["value"] if text.strip() else text
    except UserError:
        if _is_text(annotation):
            return text
        raise
    if _is_text(annotation) and isinstance(value, int | float):  # `0123` is not 123
        return text
    return value if _accepts(annotation, value) or not _accepts(annotation, text) else text


def _is_text(annotation: Any) -> bool:
    """Whether a field takes text and nothing else, apart from `null`."""
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return all(map(_is_text, kinds)) if kinds else annotation is str


def _accepts(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def _nested(path: tuple[str, ...], value: Any, place: str) -> YamlDocument:
    data = value
    for key in reversed(path):
        data = {key: data}
    return YamlDocument(data, {path[:end]: place for end in range(1, len(path) + 1)}, place)


def _fields(annotation: Any) -> dict[str, Any]:
    """Field names and annotations of every model inside ``annotation``, unions included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    found: dict[str, Any] = {}
    for part in get_args(annotation):
        found.update(_fields(part))
    return found


def _kinds_with(annotation: Any, field: str) -> list[str]:
    """`kind` of each model inside the union ``annotation`` that has ``field``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        return [str(fields["kind"].default)] if field in fields and "kind" in fields else []
    return [kind for part in get_args(annotation) for kind in _kinds_with(part, field)]


def _explain(model: type[Contract], document: YamlDocument, detail: ErrorDetails) -> str:
    path = _written(detail["loc"], document.data)
    dotted = ".".join(map(str, path))
    place = document.place(path)
    if detail["type"] == "extra_forbidden":
        # Fields are looked for inside a list as well, so its indices are no keys.
        keys = tuple(key for key in path[:-1] if isinstance(key, str))
        parent = annotation_at(model, keys, place) if keys else model
        if path[-1] in _fields(parent):  # of another kind, such as another strategy
            kinds = " or ".join(_kinds_with(parent, str(path[-1])))
            return f"{place}: {dotted} is not a setting of {detail['loc'][-2]}, only of {kinds}; remove it"
        return f"{place}: {_unknown(dotted, str(path[-1]), list(_fields(parent)))}"
    if detail["type"] == "missing":
        return f"{place}: {dotted} is missing"
    head = f"{place}: {dotted}" if dotted else place
    return f"{head}: {_message(detail)}{_found(document.data, path, detail)}"


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error":
        wanted = str(detail["ctx"]["expected"])
        valid = wanted.replace("'", "").replace(" or ", ", ").split(", ")
        return f"expected {wanted}{did_you_mean(str(detail['input']), valid)}"
    if detail["type"] == "bool_type":
        return "write true or false"
    if detail["type"] == "union_tag_not_found":
        return f"write its kind, or one of the short names {', '.join(STRATEGY_NAMES)}"
    return message[0].lower() + message[1:]


def _found(data: Any, path: KeyPath, detail: ErrorDetails) -> str:
    if detail["type"] in {"value_error", "union_tag_invalid"}:
        return ""
    for key in path:
        data = data[key]
    return f", found {json.dumps(data, default=str)}" if not isinstance(data, dict | list) else ""


def _written(loc: tuple[int | str, ...], data: Any) -> KeyPath:
    """The part of pydantic's location that is in the file: union tags are not."""
    path: list[str | int] = []
    for index, key in enumerate(loc):
        if _holds(data, key):
            data = data[key]
        elif index < len(loc) - 1:
            continue  # a tag such as `fsdp2` of a discriminated union
        elif not isinstance(data, dict):
            break
        path.append(key)
    return tuple(path)


def _holds(data: Any, key: int | str) -> bool:
    if isinstance(data, list):
        return isinstance(key, int) and key < len(data)
    return isinstance(data, dict) and key in data


def _unknown(dotted: str, key: str, valid: list[str]) -> str:
    return f"{dotted} is not a setting{did_you_mean(key, valid) or '; valid: ' + ', '.join(valid)}"
