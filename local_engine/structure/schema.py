"""Which JSON schemas can be enforced to the letter.

`enforceable` reads a client's schema and returns one that holds only keywords which the grammar compiler
obeys; annotations are left out. Everything else is refused: a keyword that would be silently dropped, and
the few uses in which the compiler is laxer than the standard. Where this module is stricter than the
standard, what is generated still validates.

INVARIANT: the text of a `SchemaError` names keywords of JSON Schema, and never quotes what a client wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from local_engine.structure.keywords import ANNOTATIONS, FORMATS, NO_EFFECT, NOT_ENFORCED, TYPES
from local_engine.structure.pattern import expanded_size, has_controls, has_flags, names_controls

MAX_DEPTH = 64
"""Levels of nested objects and lists; the compiler's own reader gives up at 128."""
MAX_CHARS = 131_072
MAX_SCHEMAS = 2000
MAX_ALTERNATIVES = 500
"""Of `anyOf`, `oneOf` and objects or lists in `enum` together. Compiling takes their square, and the parser
gives up when it must follow 2,000 at once."""
MAX_PATTERN_PROPERTIES = 100
"""Each is compared with every other."""
MAX_PATTERN_CHARS = 1024
MAX_PATTERN_SIZE = 10_000
MAX_EXACT = 2**53
"""Larger whole numbers are rounded by the compiler, which computes in fp64."""
SMALLEST_BOUND = 1e-9
"""Also how far values stay away from an exclusive bound: the compiler lets some exclusive bounds through."""

Place = tuple[str, ...]


class SchemaError(ValueError):
    """A schema that is wrong or cannot be enforced; the text continues "the schema ..."."""


def enforceable(schema: Any) -> dict[str, Any]:
    """The schema without annotations, keywords in a fixed order, properties in the client's.

    Raises `SchemaError`.
    """
    _check_depth(schema)
    if not isinstance(schema, Mapping):
        raise SchemaError("must be an object")
    reader = _Reader()
    clean = reader.read_object(schema, ())
    reader.check_references()
    try:
        size = len(json.dumps(clean, allow_nan=False))
    except ValueError:
        raise SchemaError("holds a number that is not finite: JSON has none") from None
    if size > MAX_CHARS:
        raise SchemaError(f"has {size} characters, and at most {MAX_CHARS} are compiled: make it shorter")
    return clean


def arguments_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of a function's arguments, which are always an object.

    A function without parameters, or whose parameters are an object that says nothing more, takes `{}` alone.
    Raises `SchemaError`.
    """
    clean = enforceable(parameters or {})
    if "$ref" not in clean and "type" not in clean:
        clean = {"type": "object"} | clean
    if "$ref" not in clean and clean["type"] != "object":
        raise SchemaError("must describe an object: give it `type: object`")
    if all(key == "type" or (key in ("properties", "required") and not clean[key]) for key in clean):
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return clean


class _Reader:
    """One walk through a schema, which remembers where subschemas are and where references point."""

    def __init__(self) -> None:
        self._places: set[Place] = set()
        self._references: list[Place] = []
        self._alternatives = 0
        self._pattern_properties = 0

    def read(self, schema: Any, place: Place) -> Any:
        """The enforceable form of a subschema, which may also be `true` or `false`."""
        if isinstance(schema, bool):
            self._mark(place)
            return schema
        if not isinstance(schema, Mapping):
            raise SchemaError("has something else than an object or a boolean where a schema belongs")
        return self.read_object(schema, place)

    def read_object(self, schema: Mapping[str, Any], place: Place) -> dict[str, Any]:
        """The enforceable form of a subschema that is an object."""
        self._mark(place)
        for keyword, value in schema.items():
            self._check_keyword(keyword, value, place)
        self._check_minimum_of_properties(schema)
        clean = {
            keyword: read(self, keyword, schema[keyword], place)
            for keyword, read in _KEYWORDS.items()
            if keyword in schema
        }
        return _with_inclusive_bounds(clean)

    def check_references(self) -> None:
        """Raises `SchemaError` when a reference points at nothing that was read as a schema."""
        if any(reference not in self._places for reference in self._references):
            raise SchemaError("has a `$ref` that points at no schema inside it")

    def _check_keyword(self, keyword: str, value: Any, place: Place) -> None:
        if keyword in _KEYWORDS or keyword in ANNOTATIONS or keyword.startswith("x-"):
            return
        if keyword in NO_EFFECT and value is NO_EFFECT[keyword]:
            return
        if keyword in ("id", "$id") and not place:
            return
        if keyword in NOT_ENFORCED:
            raise SchemaError(f"uses `{keyword}`, which this engine cannot enforce: leave it out")
        raise SchemaError("uses a keyword that this engine does not know: leave it out")

    def _mark(self, place: Place) -> None:
        self._places.add(place)
        if len(self._places) > MAX_SCHEMAS:
            raise SchemaError(f"holds more than {MAX_SCHEMAS} schemas")

    def _count_alternatives(self, more: int) -> None:
        self._alternatives += more
        if self._alternatives > MAX_ALTERNATIVES:
            raise SchemaError(f"has more than {MAX_ALTERNATIVES} alternatives in `anyOf`, `oneOf` and `enum`")

    def _check_minimum_of_properties(self, schema: Mapping[str, Any]) -> None:
        # The grammar may repeat a key that `properties` does not name, and repeated keys count once.
        least = schema.get("minProperties", 0)
        required = schema.get("required", [])
        known = len(set(map(str, required))) if isinstance(required, list) else 0
        if isinstance(least, int | float) and least > max(1, known):
            raise SchemaError("uses `minProperties` above 1: name the keys in `required` instead")

    def any_value(self, keyword: str, value: Any, place: Place) -> Any:
        """`const`."""
        _check_value(value)
        return value

    def values(self, keyword: str, value: Any, place: Place) -> Any:
        """`enum`."""
        if not isinstance(value, list) or not value:
            raise SchemaError(f"needs a list with something in it at `{keyword}`")
        self._count_alternatives(sum(isinstance(one, Mapping | list) for one in value))
        _check_value(value)
        return value

    def types(self, keyword: str, value: Any, place: Place) -> Any:
        """`type`."""
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name in TYPES for name in names):
            raise SchemaError(f"has an unknown type: `{keyword}` takes {', '.join(sorted(TYPES))}")
        return value

    def subschema(self, keyword: str, value: Any, place: Place) -> Any:
        """`items` and `additionalProperties`."""
        if isinstance(value, list):
            raise SchemaError(f"has a list at `{keyword}`: use `prefixItems`")
        return self.read(value, (*place, keyword))

    def subschemas(self, keyword: str, value: Any, place: Place) -> Any:
        """`prefixItems`, `anyOf`, `oneOf` and `allOf`."""
        if not isinstance(value, list) or not value:
            raise SchemaError(f"needs a list with something in it at `{keyword}`")
        if keyword in ("anyOf", "oneOf"):
            self._count_alternatives(len(value))
        return [self.read(one, (*place, keyword, str(n))) for n, one in enumerate(value)]

    def named(self, keyword: str, value: Any, place: Place) -> Any:
        """`properties`, `$defs` and `definitions`."""
        if not isinstance(value, Mapping):
            raise SchemaError(f"needs an object at `{keyword}`")
        _check_value(list(value))
        return {key: self.read(one, (*place, keyword, key)) for key, one in value.items()}

    def patterns(self, keyword: str, value: Any, place: Place) -> Any:
        """`patternProperties`."""
        read = self.named(keyword, value, place)
        self._pattern_properties += len(read)
        if self._pattern_properties > MAX_PATTERN_PROPERTIES:
            raise SchemaError(f"has more than {MAX_PATTERN_PROPERTIES} entries in `{keyword}`")
        for key in read:
            self.pattern(keyword, key, place)
        return read

    def names(self, keyword: str, value: Any, place: Place) -> Any:
        """`required`."""
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise SchemaError(f"needs a list of strings at `{keyword}`")
        _check_value(value)
        return value

    def count(self, keyword: str, value: Any, place: Place) -> Any:
        """`minLength` and its like."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_EXACT:
            raise SchemaError(f"needs a whole number from 0 at `{keyword}`")
        if value != int(value):
            raise SchemaError(f"needs a whole number from 0 at `{keyword}`")
        return int(value)

    def bound(self, keyword: str, value: Any, place: Place) -> Any:
        """`minimum` and its like."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SchemaError(f"needs a number at `{keyword}`")
        if not abs(value) <= MAX_EXACT or 0 < abs(value) < SMALLEST_BOUND:
            raise SchemaError(
                f"has a number at `{keyword}` that is neither 0 nor between {SMALLEST_BOUND} and 2^53 in size"
            )
        return value

    def factor(self, keyword: str, value: Any, place: Place) -> Any:
        """`multipleOf`."""
        if self.bound(keyword, value, place) <= 0:
            raise SchemaError(f"needs a number above 0 at `{keyword}`")
        return value

    def pattern(self, keyword: str, value: Any, place: Place) -> Any:
        """`pattern`."""
        if not isinstance(value, str):
            raise SchemaError(f"needs a string at `{keyword}`")
        if len(value) > MAX_PATTERN_CHARS:
            raise SchemaError(f"has more than {MAX_PATTERN_CHARS} characters in a `{keyword}`")
        if has_flags(value):
            raise SchemaError(f"has a group that begins with `(?` in a `{keyword}`: only `(?:` is understood")
        if names_controls(value):
            raise SchemaError(f"has a control character in a `{keyword}`, which cannot be enforced")
        if expanded_size(value) > MAX_PATTERN_SIZE:
            raise SchemaError(f"has a `{keyword}` whose counts multiply to more than {MAX_PATTERN_SIZE}")
        return value

    def format(self, keyword: str, value: Any, place: Place) -> Any:
        """`format`."""
        if value not in FORMATS:
            raise SchemaError(f"has a `{keyword}` that cannot be enforced: use {', '.join(FORMATS)}")
        return value

    def reference(self, keyword: str, value: Any, place: Place) -> Any:
        """`$ref`."""
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            raise SchemaError(f"has a `{keyword}` that leaves it: use pointers like `#/$defs/name`")
        steps = unquote(value[1:]).split("/")[1:]
        self._references.append(tuple(step.replace("~1", "/").replace("~0", "~") for step in steps))
        return value


# In the order in which the compiler gets them: the order of properties follows `properties` before `allOf`.
_KEYWORDS: dict[str, Callable[[_Reader, str, Any, Place], Any]] = {
    "type": _Reader.types,
    "properties": _Reader.named,
    "patternProperties": _Reader.patterns,
    "additionalProperties": _Reader.subschema,
    "required": _Reader.names,
    "minProperties": _Reader.count,
    "maxProperties": _Reader.count,
    "prefixItems": _Reader.subschemas,
    "items": _Reader.subschema,
    "minItems": _Reader.count,
    "maxItems": _Reader.count,
    "minLength": _Reader.count,
    "maxLength": _Reader.count,
    "pattern": _Reader.pattern,
    "format": _Reader.format,
    "minimum": _Reader.bound,
    "maximum": _Reader.bound,
    "exclusiveMinimum": _Reader.bound,
    "exclusiveMaximum": _Reader.bound,
    "multipleOf": _Reader.factor,
    "const": _Reader.any_value,
    "enum": _Reader.values,
    "$ref": _Reader.reference,
    "allOf": _Reader.subschemas,
    "anyOf": _Reader.subschemas,
    "oneOf": _Reader.subschemas,
    "$defs": _Reader.named,
    "definitions": _Reader.named,
}


def _check_depth(schema: Any) -> None:
    """Without recursion, for what it guards against is running out of stack."""
    level, depth = [schema], 0
    while level:
        if depth > MAX_DEPTH:
            raise SchemaError(f"is nested more than {MAX_DEPTH} levels deep")
        level = [
            child
            for one in level
            if isinstance(one, Mapping | list)
            for child in (one.values() if isinstance(one, Mapping) else one)
        ]
        depth += 1


def _check_value(value: Any) -> None:
    """What is to be spelled out must come out as it went in.

    Numbers are rounded to fp64, and control characters without a short escape are dropped.
    """
    if isinstance(value, Mapping):
        _check_value(list(value))
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _check_value(one)
    elif isinstance(value, str):
        if has_controls(value):
            raise SchemaError("has a control character in a name, in `const` or in `enum`")
    elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= MAX_EXACT):
        raise SchemaError("has a number above 2^53 in `const` or `enum`")


def _with_inclusive_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with each exclusive bound as an inclusive one a little further in."""
    clean = dict(schema)
    if "exclusiveMinimum" in clean:
        beyond = clean.pop("exclusiveMinimum")
        least = max(beyond + SMALLEST_BOUND, math.nextafter(beyond, math.inf))
        clean["minimum"] = max(least, clean.get("minimum", -math.inf))
    if "exclusiveMaximum" in clean:
        beyond = clean.pop("exclusiveMaximum")
        most = min(beyond - SMALLEST_BOUND, math.nextafter(beyond, -math.inf))
        clean["maximum"] = min(most, clean.get("maximum", math.inf))
    return clean
