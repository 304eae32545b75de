"""Function tools as the TypeScript signatures that gpt-oss was trained to read.

Where `openai_harmony` expresses a schema, this agrees with it byte by byte, even where it reads oddly: the
type `null` alone is `any`, and an array of string literals or of a list of types has no parentheses. Beyond
the library: `anyOf`, `allOf`, local `$ref`, `const`, enums of anything, tuples, values of a map, and objects
or arrays that do not say so. And no text of a schema leaves its line: the library copies a line end in a
description, a name or a default as it is, so that the rest of it stands among the declarations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from local_engine.harmony.schema_refs import Named, Schema, inlined, is_null, only_variant

if TYPE_CHECKING:
    from local_engine.harmony.conversation import FunctionTool

LINE_END = re.compile("\r\n|[\n\r\u2028\u2029]")
"""What ends a line, and with it a comment, in TypeScript."""

TYPE_NAMES = frozenset({"string", "number", "boolean", "null", "object", "array"})


def tools_section(tools: Sequence[FunctionTool]) -> str:
    """The `# Tools` section with the namespace `functions`."""
    lines = ["# Tools\n\n## functions\n", "namespace functions {\n"]
    for tool in tools:
        lines += [f"// {line}" for line in split_lines(tool.description)]
        argument = "" if tool.parameters is None else f"_: {typescript(tool.parameters)}"
        lines.append(f"type {one_line(tool.name)} = ({argument}) => any;\n")
    lines.append("} // namespace functions")
    return "\n".join(lines)


def typescript(schema: Any) -> str:
    """The TypeScript type of a JSON schema; `any` for what has no counterpart. Raises nothing."""
    return _type(inlined(schema), "")


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends; a line end at the very end begins no further line."""
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def one_line(text: str) -> str:
    """The text with a blank for each line end."""
    return LINE_END.sub(" ", text)


def compact_json(value: Any) -> str:
    """JSON on one line without blanks, exponents spelled `1e-7` and `1e16` as the library does.

    Raises `ValueError` or `RecursionError` for what JSON cannot hold or what nests too deeply.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", text) if isinstance(value, float) else text


def _type(schema: Any, indent: str) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(reference := schema.get("$ref"), Named):
        return reference.name
    if isinstance(schema.get("oneOf"), list):
        return "".join(_top_variant(variant, indent) for variant in schema["oneOf"])
    if literals := _literals(schema):
        return " | ".join(literals)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _several_types([name for name in kind if isinstance(name, str)], schema, indent)
    match kind or _unsaid_type(schema):
        case "object":
            return _object(schema, indent)
        case "string":
            return "string"
        case "number" | "integer":
            return "number"
        case "boolean":
            return "boolean"
        case "array":
            return _array(schema, indent)
        case "anyOf":
            members = [_member(variant, indent) for variant in schema["anyOf"]]
            return " | ".join(dict.fromkeys(members))
        case "allOf":
            return " & ".join(_grouped(part, indent) for part in schema["allOf"])
        case _:
            return "any"


def _unsaid_type(schema: Schema) -> str | None:
    """What a schema without `type` is by its other keys."""
    for key in ("anyOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return key
    if isinstance(schema.get("properties"), Mapping):
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else None


def _literals(schema: Schema) -> list[str]:
    """The values a schema allows, if it lists them: those of its type where it has one."""
    if "const" in schema:
        return [_literal(schema["const"])]
    values = schema.get("enum")
    if not isinstance(values, list):
        return []
    match schema.get("type"):
        case "string":
            return [_quoted(value) for value in values if isinstance(value, str)]
        case "number" | "integer":
            return [_literal(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        case "boolean":
            return [_literal(value) for value in values if isinstance(value, bool)]
        case None | list():
            return [_literal(value) for value in values]
        case _:
            return []


def _several_types(names: list[str], schema: Schema, indent: str) -> str:
    structured = _structured(schema)
    members = []
    for name in dict.fromkeys(names):
        if name in structured:
            members.append(_object(schema, indent) if name == "object" else _array(schema, indent))
        else:
            known = "number" if name == "integer" else name
            members.append(known if known in TYPE_NAMES else "any")
    return " | ".join(members) or "any"


def _structured(schema: Schema) -> set[str]:
    """Of `object` and `array` in a list of types, those whose inside the schema describes."""
    inside = {"object": ("properties",), "array": ("items", "prefixItems")}
    return {name for name in inside if name in schema["type"] and any(k in schema for k in inside[name])}


def _array(schema: Schema, indent: str) -> str:
    first, rest = schema.get("prefixItems"), schema.get("items")
    if isinstance(rest, list):
        # Before JSON schema 2020-12 a tuple's members stood under `items`.
        first, rest = rest, None
    if isinstance(first, list) and first:
        members = [_member(item, indent) for item in first]
        if isinstance(rest, Mapping):
            members.append(f"...{_grouped(rest, indent)}[]")
        return f"[{', '.join(members)}]"
    return f"{_grouped(rest, indent)}[]" if "items" in schema else "Array<any>"


def _member(schema: Any, indent: str) -> str:
    return "null" if is_null(schema) else _nullable(schema, indent)


def _grouped(schema: Any, indent: str) -> str:
    """A type that something follows: in parentheses where the library has no say and it is several."""
    text = _type(schema, indent)
    return f"({text})" if isinstance(schema, Mapping) and _is_several(schema) else text


def _is_several(schema: Schema) -> bool:
    if "oneOf" in schema or isinstance(schema.get("$ref"), Named):
        return False
    kind = schema.get("type")
    if len(_literals(schema)) > 1:
        return kind != "string"
    if isinstance(kind, list):
        return "const" not in schema and len(kind) > 1 and bool(_structured(schema))
    key = None if kind or "const" in schema else _unsaid_type(schema)
    return key in ("anyOf", "allOf") and len(schema[key]) > 1


def _object(schema: Schema, indent: str) -> str:
    out = _comment(schema.get("description"), indent) + "{\n"
    properties = schema.get("properties")
    required = schema.get("required")
    names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    for key, value in (properties if isinstance(properties, Mapping) else {}).items():
        name = _json(key) if LINE_END.search(key) else key
        out += _property(
            name if key in names else f"{name}?", value if isinstance(value, Mapping) else {}, indent
        )
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping) and others:
        out += _property("[key: string]", others, indent)
    return out + indent + "}"


def _property(name: str, value: Schema, indent: str) -> str:
    variants, write = _listed_variants(value)
    out = ""
    if isinstance(value.get("title"), str):
        out += f"{_comment(value['title'], indent)}{indent}//\n"
    if "oneOf" not in value and variants is None:
        out += _comment(value.get("description"), indent)
    examples = value.get("examples")
    if isinstance(examples, list) and examples:
        out += f"{indent}// Examples:\n"
        out += "".join(
            f"{indent}// - {_quoted(example)}\n" for example in examples if isinstance(example, str)
        )
    if variants is not None:
        return out + _variants(name, value, variants, write, indent)
    out += f"{indent}{name}: {_nullable(value, indent + '    ')},"
    if "oneOf" not in value and "default" in value:
        out += f" // {_default(value)}"
    return out + "\n"


Write = Callable[[Any, str], str]


def _listed_variants(value: Schema) -> tuple[list[Any] | None, Write]:
    """The variants that get a line each, and how one is written.

    They are those of `oneOf`, as in the library, and those of an `anyOf` that says something about one of
    them.
    """
    if isinstance(value.get("oneOf"), list):
        return value["oneOf"], _nullable
    several = "oneOf" not in value and not value.get("type") and _unsaid_type(value) == "anyOf"
    if not several or _literals(value) or only_variant(value) is not None:
        return None, _member
    noted = any(isinstance(v, Mapping) and ("description" in v or "default" in v) for v in value["anyOf"])
    return (value["anyOf"] if noted else None), _member


def _variants(name: str, value: Schema, variants: list[Any], write: Write, indent: str) -> str:
    """A property of several variants: its comments above, then one line a variant."""
    about = value.get("description")
    about = about if isinstance(about, str) else None
    first = variants[0] if variants and isinstance(variants[0], Mapping) else {}
    above = about if about is None or about != first.get("description") else None
    out = _comment(above, indent)
    if "default" in value:
        out += f"{indent}// {_default(value)}\n"
    out += f"{indent}{name}:\n"
    for n, variant in enumerate(variants):
        notes = []
        described = variant.get("description") if isinstance(variant, Mapping) else None
        # The library leaves the first one bare when a comment already stands above the property.
        bare = n == 0 and above is not None and "oneOf" in value
        if not bare and isinstance(described, str) and described != about:
            notes.append(described)
        if isinstance(variant, Mapping) and "default" in variant:
            notes.append(_default(variant))
        out += f"{indent} | {write(variant, indent + '   ')}{_trailing(notes)}\n"
    return out + f"{indent},\n"


def _top_variant(variant: Any, indent: str) -> str:
    """One line of a `oneOf` that is not a property's."""
    notes = []
    if isinstance(variant, Mapping):
        if isinstance(variant.get("description"), str):
            notes.append(variant["description"])
        if "default" in variant:
            notes.append(_default(variant, enums_bare=False))
    return f"\n{indent} | {_nullable(variant, indent + '   ')}{_trailing(notes)}"


def _nullable(schema: Any, indent: str) -> str:
    kind = _type(schema, indent)
    if isinstance(schema, Mapping) and schema.get("nullable") is True and "null" not in kind:
        return f"{kind} | null"
    return kind


def _default(schema: Schema, *, enums_bare: bool = True) -> str:
    default = schema["default"]
    values = schema.get("enum")
    is_enum = isinstance(values, list) and bool(values)
    if isinstance(default, str) and is_enum and enums_bare:
        return f"default: {one_line(default)}"
    if isinstance(default, str) and not is_enum:
        return f"default: {_quoted(default)}"
    return f"default: {_json(default)}"


def _literal(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else _json(value)


def _quoted(text: str) -> str:
    """In quotes as the library writes it, unescaped, unless that would break the line."""
    return _json(text) if LINE_END.search(text) else f'"{text}"'


def _json(value: Any) -> str:
    try:
        return compact_json(value)
    except (RecursionError, ValueError, TypeError):
        return "any"


def _comment(text: object, indent: str) -> str:
    if not isinstance(text, str):
        return ""
    return "".join(f"{indent}// {line}\n" for line in split_lines(text) or [""])


def _trailing(notes: list[str]) -> str:
    return f" // {one_line(' '.join(notes))}" if notes else ""
