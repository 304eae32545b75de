"""Which schemas are let through, in what form, and how the others are refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from local_engine.errors import Refused
from local_engine.structure.keywords import FORMATS, NOT_ENFORCED
from local_engine.structure.request import ResponseFormat, Structures, ToolSpec
from local_engine.structure.schema import (
    MAX_ALTERNATIVES,
    MAX_DEPTH,
    MAX_PATTERN_PROPERTIES,
    MAX_SCHEMAS,
    SchemaError,
    arguments_schema,
    enforceable,
)
from local_engine.structure.turn import Turn
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import encode

SECRET = "correct-horse-battery"


def nested(levels: int) -> dict[str, Any]:
    """Arrays in arrays."""
    schema: dict[str, Any] = {"type": "array"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def takes(structures: Structures, vocabulary: Vocabulary, schema: ResponseFormat, text: str) -> bool:
    """Whether an answer may be exactly `text`."""
    made = structures.for_request(response_format=schema, max_tokens=10_000)
    assert made is not None
    turn: Turn = made()
    try:
        for token in encode(f"<|channel|>final<|message|>{text}<|return|>", vocabulary):
            turn.accept(token)
    except AssertionError:
        return False
    return turn.ended


def test_annotations_are_left_out_and_what_is_enforced_is_kept_in_order() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/thing",
        "title": "Thing",
        "x-order": 1,
        "x-guidance": {"lenient": True},
        "required": ["z", "a"],
        "properties": {
            "z": {"type": "string", "description": "last", "default": "", "examples": ["x"]},
            "a": {"deprecated": True, "uniqueItems": False, "nullable": False},
        },
        "type": "object",
    }
    clean = enforceable(schema)
    assert json.dumps(clean) == json.dumps(
        {"type": "object", "properties": {"z": {"type": "string"}, "a": {}}, "required": ["z", "a"]}
    )


@pytest.mark.parametrize("keyword", sorted(NOT_ENFORCED - {"$id", "id"}))
def test_a_keyword_that_cannot_be_enforced_is_refused_by_name(keyword: str) -> None:
    with pytest.raises(SchemaError) as refused:
        enforceable({"properties": {"a": {keyword: True}}})
    assert str(refused.value) == f"uses `{keyword}`, which this engine cannot enforce: leave it out"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ([], "must be an object"),
        ({SECRET: 1}, "uses a keyword that this engine does not know: leave it out"),
        ({"items": [{}]}, "has a list at `items`: use `prefixItems`"),
        ({"items": 1}, "has something else than an object or a boolean where a schema belongs"),
        ({"properties": []}, "needs an object at `properties`"),
        ({"required": [1]}, "needs a list of strings at `required`"),
        ({"type": SECRET}, "has an unknown type: `type` takes array, boolean, integer, null, number, object"),
        ({"type": []}, "has an unknown type"),
        ({"enum": []}, "needs a list with something in it at `enum`"),
        ({"anyOf": {}}, "needs a list with something in it at `anyOf`"),
        ({"minLength": -1}, "needs a whole number from 0 at `minLength`"),
        ({"minLength": 1.5}, "needs a whole number from 0 at `minLength`"),
        ({"maxItems": True}, "needs a whole number from 0 at `maxItems`"),
        ({"maxItems": math.inf}, "needs a whole number from 0 at `maxItems`"),
        ({"minimum": "1"}, "needs a number at `minimum`"),
        ({"exclusiveMinimum": True}, "needs a number at `exclusiveMinimum`"),
        ({"maximum": 2**53 + 1}, "has a number at `maximum` that is neither 0 nor between"),
        ({"minimum": 1e-300}, "has a number at `minimum` that is neither 0 nor between"),
        ({"minimum": math.nan}, "has a number at `minimum` that is neither 0 nor between"),
        ({"multipleOf": 0}, "needs a number above 0 at `multipleOf`"),
        ({"const": {"a": [2**53 + 1]}}, "has a number above 2^53 in `const` or `enum`"),
        ({"enum": [math.inf]}, "has a number above 2^53 in `const` or `enum`"),
        ({"const": "a\x00b"}, "has a control character in a name, in `const` or in `enum`"),
        ({"enum": [{"\x01": 1}]}, "has a control character in a name, in `const` or in `enum`"),
        ({"properties": {"\x1f": {}}}, "has a control character in a name, in `const` or in `enum`"),
        ({"required": ["\x7f"]}, "has a control character in a name, in `const` or in `enum`"),
        ({"pattern": 1}, "needs a string at `pattern`"),
        ({"pattern": "a" * 1025}, "has more than 1024 characters in a `pattern`"),
        ({"pattern": "(?i)a"}, "has a group that begins with `(?` in a `pattern`"),
        ({"pattern": "a\\x01"}, "has a control character in a `pattern`, which cannot be enforced"),
        ({"pattern": "(a{1000}){1000}"}, "has a `pattern` whose counts multiply to more than 10000"),
        ({"patternProperties": {"(a{999}){999}": {}}}, "has a `patternProperties` whose counts multiply"),
        ({"format": SECRET}, "has a `format` that cannot be enforced: use date-time, time"),
        ({"format": ["date"]}, "has a `format` that cannot be enforced"),
        ({"$ref": "https://example.org/a"}, "has a `$ref` that leaves it: use pointers like `#/$defs/name`"),
        ({"$ref": "#name"}, "has a `$ref` that leaves it"),
        ({"$ref": "#/$defs/a"}, "has a `$ref` that points at no schema inside it"),
        ({"$ref": "#/title", "title": {"type": "string"}}, "has a `$ref` that points at no schema inside it"),
        ({"minProperties": 2}, "uses `minProperties` above 1: name the keys in `required` instead"),
        ({"properties": {"a": {"$id": "b"}}}, "uses `$id`, which this engine cannot enforce: leave it out"),
        (nested(MAX_DEPTH), f"is nested more than {MAX_DEPTH} levels deep"),
        (nested(100_000), f"is nested more than {MAX_DEPTH} levels deep"),
        ({"enum": ["x" * 200_000]}, "has 200014 characters, and at most 131072 are compiled"),
        ({"prefixItems": [{}] * MAX_SCHEMAS}, f"holds more than {MAX_SCHEMAS} schemas"),
        ({"anyOf": [{}] * (MAX_ALTERNATIVES + 1)}, f"has more than {MAX_ALTERNATIVES} alternatives"),
        ({"enum": [[]] * (MAX_ALTERNATIVES + 1)}, f"has more than {MAX_ALTERNATIVES} alternatives"),
        (
            {"patternProperties": {f"^{n}$": {} for n in range(MAX_PATTERN_PROPERTIES + 1)}},
            f"has more than {MAX_PATTERN_PROPERTIES} entries in `patternProperties`",
        ),
    ],
)
def test_a_wrong_or_boundless_schema_is_refused_with_its_reason(schema: Any, reason: str) -> None:
    with pytest.raises(SchemaError) as refused:
        enforceable(schema)
    assert str(refused.value).startswith(reason)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"enum": ["a"], "type": "integer"}, "allows no value at all"),
        ({"type": "string", "pattern": f"({SECRET}"}, "has a `pattern` that is wrong or cannot be enforced"),
        ({"type": "string", "pattern": "\\ba"}, "has a `pattern` that looks around or at word boundaries"),
        ({"$ref": "#", "type": "string"}, "has a `$ref` beside other keywords that leads back to itself"),
        ({"$ref": "#"}, "is too complex to enforce"),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "uses `oneOf` whose schemas may overlap"),
        ({"patternProperties": {"^a": {}, "b$": {}}}, "uses `patternProperties` that may overlap"),
        ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, "uses `minProperties` or `maxProperties`"),
        ({"const": "\ud800"}, "holds text that is not valid Unicode"),
    ],
)
def test_what_the_compiler_cannot_do_is_refused_without_its_words(
    structures: Structures, schema: Any, reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        structures.for_request(response_format=schema, max_tokens=100)
    assert refused.value.message.startswith(f"the schema at `response_format` {reason}")
    assert SECRET not in refused.value.message
    assert refused.value.body()["error"] == {
        "message": refused.value.message,
        "type": "invalid_request_error",
        "param": "response_format",
        "code": "invalid_schema",
    }


def test_a_schema_of_a_function_is_refused_by_its_place(structures: Structures) -> None:
    tools = [ToolSpec("a"), ToolSpec("b", {"type": "object", "properties": {"x": {"not": {}}}})]
    with pytest.raises(Refused) as refused:
        structures.for_request(tools, "required", max_tokens=100)
    assert (refused.value.status, refused.value.code) == (400, "invalid_schema")
    assert refused.value.param == "tools[1].function.parameters"
    assert refused.value.message == (
        "the schema at `tools[1].function.parameters` uses `not`, "
        "which this engine cannot enforce: leave it out"
    )


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_function_without_parameters_takes_an_empty_object_alone(parameters: Any) -> None:
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert arguments_schema(parameters) == empty


@pytest.mark.parametrize(
    ("parameters", "clean"),
    [
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"additionalProperties": True}, {"type": "object", "additionalProperties": True}),
        ({"additionalProperties": {}}, {"type": "object", "additionalProperties": {}}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}),
    ],
)
def test_arguments_are_an_object_whatever_their_schema_leaves_out(parameters: Any, clean: Any) -> None:
    assert arguments_schema(parameters) == clean


@pytest.mark.parametrize("kind", ["string", ["object", "null"]])
def test_arguments_that_are_no_object_are_refused(kind: Any) -> None:
    with pytest.raises(SchemaError, match="must describe an object: give it `type: object`"):
        arguments_schema({"type": kind})


@pytest.mark.parametrize(
    ("schema", "taken", "not_taken"),
    [
        (
            {"type": "object"},
            ["{}", '{"a":[1.5e3,null],"b":{"c":"é"}}'],
            ["[]", "{ }", '{"a": 1}', '{"a":1,}'],
        ),
        ("json_object", ['{"a":1}'], ["1", '[{"a":1}]']),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}, ["1.1", "1.5"], ["1", "1.0", "1.51"]),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 4}, ["2", "3"], ["1", "4", "2.0"]),
        ({"type": "string", "maxLength": 2}, ['""', '"é日"', '"\\n\\""'], ['"abc"', '"\\u0001"', '"\n"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"', '""']),
        ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"const": 1}}}, ["1"], ["2"]),
        ({"const": "C:\\apps\\x01"}, ['"C:\\\\apps\\\\x01"'], ['"C:apps"']),
        # The same key in another spelling would get past the schema of its value.
        (
            {
                "properties": {"a": {"type": "integer"}},
                "additionalProperties": {"type": "string"},
                "type": "object",
            },
            ['{"a":1}', '{"b":"x"}', '{"a":1,"b":"x"}'],
            ['{"a":"x"}', '{"\\u0061":"x"}', '{"b":1}', '{"b":"x","a":1}'],
        ),
    ],
)
def test_what_a_schema_allows_is_taken_and_nothing_else(
    structures: Structures, vocabulary: Vocabulary, schema: Any, taken: list[str], not_taken: list[str]
) -> None:
    assert [text for text in taken if not takes(structures, vocabulary, schema, text)] == []
    assert [text for text in not_taken if takes(structures, vocabulary, schema, text)] == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_on_the_list_is_enforced(
    structures: Structures, vocabulary: Vocabulary, name: str
) -> None:
    good = {
        "date-time": "2024-02-29T12:30:00Z",
        "time": "12:30:00Z",
        "date": "2024-02-29",
        "duration": "P3DT4H",
        "email": "a.b@example.org",
        "hostname": "example.org",
        "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1",
        "uuid": "123e4567-e89b-12d3-a456-426614174000",
        "uri": "https://example.org/a?b=c#d",
    }[name]
    schema = {"type": "string", "format": name}
    assert takes(structures, vocabulary, schema, json.dumps(good))
    assert not takes(structures, vocabulary, schema, '"no  such thing"')
