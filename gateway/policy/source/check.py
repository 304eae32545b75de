"""Holds a document against its model, and turns what does not fit into problems with line and hint."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
)
from pydantic.json_schema import WithJsonSchema

from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.source.document import Document, Path

Model = TypeVar("Model", bound=BaseModel)

WORD_PATTERN = r"^[a-z][a-z0-9._-]{0,62}$"
ZONE_PATTERN = r"^[A-Z][A-Z0-9-]{1,15}$"

Word = Annotated[str, StringConstraints(pattern=WORD_PATTERN)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Date = Annotated[str, StringConstraints(pattern=r"^20[0-9]{2}-[01][0-9]-[0-3][0-9]$")]


def one_or_many(value: Any) -> Any:
    """A lone word where a list is expected counts as a list of one."""
    return [value] if isinstance(value, str) else value


Words = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(one_or_many),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]


class Entry(BaseModel):
    """Base of every mapping in a bundle: closed, immutable, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


# Keys that someone may well try, with what to say instead of "unknown key".
KNOWN_REFUSALS: Mapping[str, tuple[str, str]] = {
    "hedge": ("`hedge` is not a key of a route", "write `hedge_after_s: <seconds>`"),
}
UNLESS_KEYS = (
    "`unless` may name only `place_in`, `operator_under` and `attested`, so that rules stay provable"
)

EXPECTED: Mapping[str, str] = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "`true` or `false`",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def check(document: Document, model: type[Model]) -> tuple[Model | None, list[Problem]]:
    """The document as a value of `model`, or the problems that prevent it.

    A key without a value is a problem everywhere: nothing in a bundle may become looser by being left blank.
    """
    blank = [
        document.problem(path, f"`{path[-1]}` has no value", "give it one, or remove the key")
        for path in blanks(document.data, ())
    ]
    if blank:
        return None, blank
    try:
        return model.model_validate(document.data), []
    except ValidationError as error:
        return None, [problem_of(document, model, dict(detail)) for detail in error.errors()]


def blanks(value: Any, path: Path) -> list[Path]:
    """Where a value is missing."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in blanks(inner, (*path, key))]
    if isinstance(value, list):
        return [found for index, inner in enumerate(value) for found in blanks(inner, (*path, index))]
    return [path] if value is None and path else []


def problem_of(document: Document, model: type[BaseModel], detail: Mapping[str, Any]) -> Problem:
    """One fault that pydantic found, in our words."""
    path: Path = tuple(part for part in detail["loc"] if part != "[key]")
    kind, given = detail["type"], detail["input"]
    name = str(path[-1]) if path else document.file
    if kind == "extra_forbidden":
        message, hint = KNOWN_REFUSALS.get(name, (f"unknown key `{name}`", ""))
        around = path[:-1]
        hint = hint or (
            UNLESS_KEYS if around and around[-1] == "unless" else did_you_mean(name, keys_at(model, around))
        )
        return document.problem(path, message, hint, key=True)
    if kind == "missing":
        return document.problem(path[:-1], f"the key `{name}` is missing", f"add `{name}: ...`")
    if kind in EXPECTED:
        hint = "quote it" if kind == "string_type" and isinstance(given, bool | int | float) else "rewrite it"
        shown = f"`{given}` is not" if isinstance(given, str | bool | int | float) else "expected"
        return document.problem(path, f"`{name}`: {shown} {EXPECTED[kind]}", hint)
    context = detail.get("ctx", {})
    if kind in ("literal_error", "enum"):
        known = [part.strip().strip("'") for part in context["expected"].replace(" or ", ", ").split(",")]
        return document.problem(
            path, f"`{given}` is not a value of `{name}`", did_you_mean(str(given), known)
        )
    if kind == "string_pattern_mismatch":
        return document.problem(
            path,
            f"`{given}` is not a name for `{name}`",
            f"write one that matches `{context['pattern']}`",
            key=given == name,
        )
    if kind == "too_short":
        return document.problem(path, f"`{name}` is empty", "name at least one, or remove the key")
    if kind == "value_error":
        message, _, hint = str(context["error"]).partition("; ")
        return document.problem(path, message, hint or "rewrite it")
    said = str(detail["msg"])
    return document.problem(path, f"`{name}`: {said[:1].lower()}{said[1:]}", f"`{given}` does not fit")


def keys_at(model: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that a mapping at `path` may have."""
    here = model
    for part in path:
        here = inside(here, part)
    here = unwrapped(here)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return [field.alias or name for name, field in here.model_fields.items()]
    return []


def inside(annotation: Any, part: str | int) -> Any:
    """The type of what lies under one key or index of a value with this annotation."""
    here = unwrapped(annotation)
    if isinstance(here, type) and issubclass(here, RootModel):
        here = unwrapped(here.model_fields["root"].annotation)
    if get_origin(here) in (list, dict, tuple):
        return get_args(here)[-1]
    if isinstance(here, type) and issubclass(here, BaseModel):
        for name, field in here.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
    return None


def unwrapped(annotation: Any) -> Any:
    """The annotation without `Annotated` and `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (typing.Union, types.UnionType):
            annotation = next(arm for arm in get_args(annotation) if arm is not type(None))
        else:
            return annotation
