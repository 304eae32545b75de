"""Tool signatures agree with `openai_harmony`, whatever the schema."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import DeveloperContent, HarmonyEncoding, Message, Role, ToolDescription

from local_engine.harmony.conversation import FunctionTool
from local_engine.harmony.schema_ts import tools_section

KITCHEN_SINK: dict[str, Any] = {
    "type": "object",
    "description": "all there is",
    "properties": {
        "titled": {"type": "string", "title": "TITLE", "description": "text", "examples": ["a", 'b"c', 3]},
        "nullable": {"type": "string", "nullable": True, "default": "x"},
        "choice": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "number_choice": {"type": "integer", "enum": [1, 2], "default": 2},
        "several": {"type": ["integer", "null", "string"]},
        "many": {"type": "array", "items": {"type": "string", "enum": ["p", "q"]}},
        "anything": {"type": "array"},
        "flag": {"type": "boolean", "default": False},
        "tree": {
            "type": "object",
            "description": "inner",
            "properties": {"leaf": {"type": "number", "default": 1.5, "description": "deep"}},
            "required": ["leaf"],
        },
        "either": {
            "description": "one or other",
            "default": {"k": [1, "ü"]},
            "oneOf": [
                {"type": "string", "description": "first", "default": "d"},
                {"type": "integer", "description": "second", "nullable": True},
                {"type": "string", "enum": ["e"], "default": "e"},
            ],
        },
        "same": {"description": "twin", "oneOf": [{"type": "string", "description": "twin"}]},
        "unsupported": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "becomes any"},
        "reference": {"$ref": "#/$defs/x"},
        "constant": {"const": 3},
    },
    "required": ["titled", "several", "either"],
}

WORDS = st.text(st.sampled_from("ab \n\r\t\"'\\/#é漢😀<|>"), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | WORDS
ANNOTATIONS: dict[str, st.SearchStrategy[Any]] = {
    "description": WORDS,
    "title": WORDS,
    "nullable": st.booleans(),
    "default": SCALARS | st.lists(SCALARS, max_size=2) | st.sampled_from([1e-7, 0.5, 1e16]),
    "examples": st.lists(SCALARS, max_size=2),
    "enum": st.lists(SCALARS, max_size=3),
}
KINDS = st.sampled_from(
    ["string", "number", "integer", "boolean", "null", "object", "array", ["integer", "null"]]
)


def _grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": KINDS,
            "properties": st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
            "required": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
            "items": inner,
            "oneOf": st.lists(inner, max_size=3),
            "anyOf": st.lists(inner, max_size=2),
            **ANNOTATIONS,
        },
    )


SCHEMAS = st.recursive(st.fixed_dictionaries({"type": KINDS}, optional=ANNOTATIONS), _grown, max_leaves=8)


def by_library(library: HarmonyEncoding, tools: list[FunctionTool]) -> str:
    """What the library makes of the same tools."""
    described = [
        ToolDescription.new(tool.name, tool.description, dict(tool.parameters) if tool.parameters else None)
        for tool in tools
    ]
    content = DeveloperContent.new().with_function_tools(described)
    rendered: str = library.decode_utf8(
        library.render(Message.from_role_and_content(Role.DEVELOPER, content))
    )
    return rendered.removeprefix("<|start|>developer<|message|>").removesuffix("<|end|>")


def test_every_construct_is_written_as_the_library_writes_it(library: HarmonyEncoding) -> None:
    tools = [
        FunctionTool("bare"),
        FunctionTool("told", "line one\nline two\r\n\nline four"),
        FunctionTool("sink", "everything", KITCHEN_SINK),
    ]

    assert tools_section(tools) == by_library(library, tools)


@pytest.mark.parametrize(
    "schema",
    [
        {
            "oneOf": [
                {"type": "string", "description": "d", "default": "x"},
                {"type": "integer", "default": 3},
            ]
        },
        {"oneOf": [{"type": "string", "enum": ["a"], "default": "a"}, {"type": "number", "nullable": True}]},
        {"type": []},
        {"type": "object", "properties": {"p": {"oneOf": []}}},
    ],
    ids=["variants", "variant with an enum", "no type", "no variants"],
)
def test_odd_schemas_are_written_as_the_library_writes_them(
    library: HarmonyEncoding, schema: dict[str, Any]
) -> None:
    tools = [FunctionTool("odd", "", schema)]

    assert tools_section(tools) == by_library(library, tools)


@settings(max_examples=300, deadline=None)
@given(schema=SCHEMAS.filter(bool), description=WORDS)
def test_any_schema_is_written_as_the_library_writes_it(
    library: HarmonyEncoding, schema: dict[str, Any], description: str
) -> None:
    tools = [FunctionTool("f", description, schema)]

    assert tools_section(tools) == by_library(library, tools)
