"""A JSON schema made ready to be written: references replaced by what they name, `allOf` merged.

Whatever the schema, this ends and raises nothing: schemas are the client's, and a reference may lead back
into itself or, each used twice in the next, double at every step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

Schema = Mapping[str, Any]

MAX_DEPTH = 32
"""What is nested deeper is `any`; schemas that people write nest under ten."""

MAX_NODES = 100_000
"""More of them would not fit the model's context at any rate; the rest is `any`."""

MAX_INLINED_CHARS = 100_000
"""How much text references may add; beyond it they stay names."""

ANNOTATIONS = frozenset({"title", "description", "default", "examples"})
INERT = frozenset({"$schema", "$id", "$defs", "definitions", "$comment", "additionalProperties"})
IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,63}")


@dataclass(frozen=True, slots=True)
class Named:
    """Stands where a `$ref` was that is not written out. Never part of a client's JSON."""

    name: str


def inlined(schema: Any) -> Any:
    """`schema` without local references, and with every `allOf` merged that merges without contradiction.

    A reference keeps the keys beside it, which override those of its target. One that leads back into itself
    becomes `{"$ref": Named(...)}`; one that leads nowhere, or out of the document, is left out.
    """
    return _Inliner(schema).visit(schema, frozenset({"#"}), 0)


class _Inliner:
    """One schema's pass. `_chars` is what references may still add."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = MAX_NODES
        self._chars = MAX_INLINED_CHARS

    def visit(self, schema: Any, within: frozenset[str], depth: int) -> Any:
        """The schema at one place; `within` holds the references that lead there."""
        if not isinstance(schema, Mapping):
            return schema
        self._nodes -= 1
        if depth > MAX_DEPTH or self._nodes < 0:
            return {}
        while isinstance(reference := schema.get("$ref"), str):
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            target = self._target(reference)
            if target is None:
                schema = beside
            elif reference in within or not self._affords(target):
                return {**beside, "$ref": Named(self._name(reference))}
            else:
                schema = {**target, **beside}
                within |= {reference}
        out = dict(schema)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), Mapping):
                out[key] = self.visit(schema[key], within, depth + 1)
        for key in ("oneOf", "anyOf", "allOf", "prefixItems", "items"):
            if isinstance(schema.get(key), list):
                out[key] = [self.visit(member, within, depth + 1) for member in schema[key]]
        if isinstance(schema.get("properties"), Mapping):
            out["properties"] = {
                name: self.visit(value, within, depth + 1) for name, value in schema["properties"].items()
            }
        return _with_notes_of_its_only_variant(_merged(out))

    def _target(self, reference: str) -> Schema | None:
        """What a local JSON pointer leads to."""
        if not reference.startswith("#"):
            return None
        place: Any = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping):
                place = place.get(step)
            elif isinstance(place, list) and step.isdecimal() and len(step) < 6 and int(step) < len(place):
                place = place[int(step)]
            else:
                return None
        return place if isinstance(place, Mapping) and (reference == "#" or reference[1] == "/") else None

    def _affords(self, target: Schema) -> bool:
        """Whether one more copy of `target` stays in bounds; once one did not, none does.

        Its own references are paid for where they are followed.
        """
        waiting: list[Any] = [target]
        while waiting and self._chars > 0:
            value = waiting.pop()
            self._chars -= len(value) if isinstance(value, str) else 1
            if isinstance(value, Mapping):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                waiting += value
        return self._chars > 0

    def _name(self, reference: str) -> str:
        title = self._root.get("title") if reference == "#" else unquote(reference).rpartition("/")[2]
        return title if isinstance(title, str) and IDENTIFIER.fullmatch(title) else "any"


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with the parts of its `allOf` as its own keys, or unchanged where they contradict."""
    parts = schema.get("allOf")
    if not isinstance(parts, list) or not parts:
        return schema
    out: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    required: list[Any] = []
    for part in ({key: value for key, value in schema.items() if key != "allOf"}, *parts):
        if not isinstance(part, Mapping):
            return schema
        for key, value in part.items():
            if key == "properties" and isinstance(value, Mapping) and properties.keys().isdisjoint(value):
                properties.update(value)
                out[key] = properties
            elif key == "required" and isinstance(value, list):
                required += value
                out[key] = required
            elif key not in out:
                out[key] = value
            elif not (key in ANNOTATIONS or key in INERT or _same_type(key, value, out)):
                return schema
    return out


def _same_type(key: str, value: Any, out: Schema) -> bool:
    return key == "type" and isinstance(value, str) and out[key] == value


def _with_notes_of_its_only_variant(schema: dict[str, Any]) -> dict[str, Any]:
    """An optional thing, `anyOf` of it and null, is titled and described as the thing itself."""
    if (only := only_variant(schema)) is None:
        return schema
    return {key: only[key] for key in ("title", "description") if key in only} | schema


def only_variant(schema: Schema) -> Schema | None:
    """The one variant beside null of an `anyOf` that nothing overrides, else None."""
    variants = schema.get("anyOf")
    if not isinstance(variants, list) or schema.get("type") or "oneOf" in schema:
        return None
    others = [variant for variant in variants if not is_null(variant)]
    return others[0] if len(others) == 1 and isinstance(others[0], Mapping) else None


def is_null(schema: Any) -> bool:
    """Whether a schema allows null and nothing else."""
    return isinstance(schema, Mapping) and schema.get("type") == "null"
