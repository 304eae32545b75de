"""Reads a json body into a strict model, and says by its place what is wrong with one.

INVARIANT: no text made here quotes a value, or a key that is not one of ours; only the name of an unknown
top-level parameter is repeated, when it looks like a name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from local_engine.errors import Refused

MAX_JSON_DEPTH = 64
"""How deep `tools` and `response_format` may nest, far above any schema that people write."""

Request = TypeVar("Request", bound=BaseModel)


def parse_object(body: bytes) -> dict[str, Any]:
    """A body's keys that are not null. Raises `Refused` (`invalid_json`) when it is no json object."""
    try:
        raw = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused("the body is not valid json: send one json object", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise Refused("the body must be one json object", code="invalid_json")
    return {key: value for key, value in raw.items() if value is not None}


def validated(
    model: type[Request], given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]
) -> Request:
    """The request that `given` is. `neutral` are the parameters known and not implemented, each with the
    values at which it changes nothing. Raises `Refused`."""
    for key, value in given.items():
        _check_known(key, value, model, neutral)
    for key in ("tools", "response_format"):
        if _deeper_than(given.get(key), MAX_JSON_DEPTH):
            raise Refused(
                f"`{key}` nests deeper than {MAX_JSON_DEPTH} levels: flatten it",
                param=key,
                code="invalid_value",
            )
    try:
        return model.model_validate({key: value for key, value in given.items() if key not in neutral})
    except ValidationError as error:
        raise _refusal(error, field_names(model)) from None


def _deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _refuse_constant(_: str) -> None:
    raise ValueError


def _check_known(
    key: str, value: Any, model: type[BaseModel], neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    if key in neutral:
        if not any(value == same and type(value) is type(same) for same in _spellings(neutral[key])):
            raise Refused(
                f"`{key}` is not supported by this engine: leave it out",
                param=key,
                code="unsupported_parameter",
            )
    elif key not in model.model_fields:
        if not (key.isascii() and key.isidentifier() and len(key) <= 64):
            raise Refused("the body has an unknown parameter: leave it out", code="unknown_parameter")
        raise Refused(f"unknown parameter `{key}`: leave it out", param=key, code="unknown_parameter")


def _spellings(values: tuple[Any, ...]) -> Iterator[Any]:
    for value in values:
        yield value
        if isinstance(value, int) and not isinstance(value, bool):
            yield float(value)


def _refusal(error: ValidationError, names: frozenset[str]) -> Refused:
    """One thing wrong, by its place. Keys and values of the client's are left out of the text.

    Of the alternatives of a union, the one that fits furthest tells most, hence the deepest place.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = max(found, key=lambda detail: len(_known(detail["loc"], names)))
    place = _place(first["loc"], names)
    top = str(first["loc"][0]) if first["loc"] else None
    absent = first["type"] == "missing" and len(first["loc"]) == 1
    if top in CHOICES and not absent and not _inside_alternative(first["loc"]):
        return Refused(f"`{top}` must be {CHOICES[top]}", param=top, code="unsupported_value")
    if first["type"] == "extra_forbidden" and first["loc"][-1] in names:
        return Refused(
            f"`{place}` is not supported there: remove it", param=place, code="unsupported_parameter"
        )
    if first["type"] == "extra_forbidden":
        return Refused(f"`{place}` has a key that this engine does not know: remove it", param=place)
    if first["type"] == "missing":
        return Refused(f"`{place}` is missing", param=place, code="missing_parameter")
    if first["type"].startswith("union_tag"):
        place = f"{place}.role"
        return Refused(f"`{place}` must be {ROLES}", param=place, code="unsupported_value")
    if first["type"] == "literal_error" and place.endswith(".type"):
        return Refused(f"`{place}` must be `{_only_type(place)}`", param=place, code="unsupported_value")
    return Refused(f"`{place}` is wrong: {_reason(first)}", param=place, code="invalid_value")


CHOICES = {
    "tool_choice": "`none`, `auto`, `required` or one function by name",
    "reasoning_effort": "`low`, `medium` or `high`",
    "response_format": "of type `text`, `json_object` or `json_schema`",
    "prompt": "text, token ids below 201088, or a list of 1 to 64 of either, none of them empty",
}
"""Parameters of several forms, for which the error of one form would mislead."""

ROLES = "`system`, `developer`, `user`, `assistant` or `tool`"


def _inside_alternative(loc: tuple[int | str, ...]) -> bool:
    """Whether what is wrong lies in one of the alternatives that was clearly meant."""
    return loc[0] == "response_format" and len(loc) > 1 and loc[1] in ("json_schema", "json_object", "text")


def _only_type(place: str) -> str:
    return "text" if ".content" in place else "function"


SAFE_ERRORS = frozenset(
    {"greater_than", "greater_than_equal", "less_than_equal", "less_than"}
    | {"too_short", "too_long", "string_pattern_mismatch"}
)


def _reason(detail: Any) -> str:
    """Pydantic's own words for kinds of error whose words hold no input; a plain phrase for the others.

    Its words for what is no json object name types of Python and of this engine.
    """
    if detail["type"] in ("dict_type", "model_type", "model_attributes_type"):
        return "input should be an object"
    if detail["type"] in SAFE_ERRORS or detail["type"].endswith("_type"):
        words = str(detail["msg"])
        return words[0].lower() + words[1:]
    return "not one of the values allowed here"


def _place(loc: tuple[int | str, ...], names: frozenset[str]) -> str:
    """`messages[0].content`: indexes and names of ours only, never a key of the client's."""
    if loc[:1] == ("response_format",):
        loc = (loc[0], *loc[2:])  # the second part is the tag of the alternative, no field
    steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in _known(loc, names))
    return "".join(steps).removeprefix(".")


def _known(loc: tuple[int | str, ...], names: frozenset[str]) -> list[int | str]:
    return [part for part in loc if isinstance(part, int) or part in names]


@cache
def field_names(model: type[BaseModel]) -> frozenset[str]:
    """The names on the wire of a model's fields and of the fields of all models inside it."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names |= {field.alias or name}.union(*(field_names(inner) for inner in _models(field.annotation)))
    return frozenset(names)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
