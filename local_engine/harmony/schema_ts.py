"""Function tools as the TypeScript signatures that gpt-oss was trained to read.

Agrees with `openai_harmony`, including what it does not express: `anyOf`, `$ref` and `const` become `any`,
and an integer's enum is just `number`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_engine.harmony.conversation import FunctionTool

Schema = Mapping[str, Any]


def tools_section(tools: Sequence[FunctionTool]) -> str:
    """The `# Tools` section with the namespace `functions`."""
    lines = ["# Tools\n\n## functions\n", "namespace functions {\n"]
    for tool in tools:
        lines += [f"// {line}" for line in split_lines(tool.description)]
        argument = "" if tool.parameters is None else f"_: {typescript(tool.parameters)}"
        lines.append(f"type {tool.name} = ({argument}) => any;\n")
    lines.append("} // namespace functions")
    return "\n".join(lines)


def typescript(schema: Any, indent: str = "") -> str:
    """The TypeScript type of a JSON schema; `any` for what has no counterpart."""
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(schema.get("oneOf"), list):
        return "".join(_top_variant(variant, indent) for variant in schema["oneOf"])
    kind = schema.get("type")
    if isinstance(kind, list):
        names = ["number" if name == "integer" else name for name in kind if isinstance(name, str)]
        return " | ".join(names) or "any"
    match kind:
        case "object":
            return _object(schema, indent)
        case "string":
            values = schema.get("enum")
            literals = [f'"{v}"' for v in values if isinstance(v, str)] if isinstance(values, list) else []
            return " | ".join(literals) or "string"
        case "number" | "integer":
            return "number"
        case "boolean":
            return "boolean"
        case "array":
            return f"{typescript(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
        case _:
            return "any"


def split_lines(text: str) -> list[str]:
    """Lines ended by `\\n` or `\\r\\n` only; `str.splitlines` also cuts at form feeds and the like."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if text.endswith("\n") or not text:
        lines.pop()
    elif text.endswith("\r"):
        lines[-1] += "\r"
    return lines


def _object(schema: Schema, indent: str) -> str:
    out = _comment(schema.get("description"), indent) + "{\n"
    properties = schema.get("properties")
    required = schema.get("required")
    names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    for key, value in (properties if isinstance(properties, Mapping) else {}).items():
        name = key if key in names else f"{key}?"
        out += _property(name, value if isinstance(value, Mapping) else {}, indent)
    return out + indent + "}"


def _property(name: str, value: Schema, indent: str) -> str:
    variants = value.get("oneOf")
    out = ""
    if isinstance(value.get("title"), str):
        out += f"{indent}// {value['title']}\n{indent}//\n"
    if "oneOf" not in value:
        out += _comment(value.get("description"), indent)
    examples = value.get("examples")
    if isinstance(examples, list) and examples:
        out += f"{indent}// Examples:\n"
        out += "".join(f'{indent}// - "{example}"\n' for example in examples if isinstance(example, str))
    if isinstance(variants, list):
        return out + _variants(name, value, variants, indent)
    out += f"{indent}{name}: {_nullable(value, indent + '    ')},"
    if "oneOf" not in value and "default" in value:
        out += f" // {_default(value)}"
    return out + "\n"


def _variants(name: str, value: Schema, variants: list[Any], indent: str) -> str:
    """A property with `oneOf`: its comments above, then one line a variant."""
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
        # The first variant stays bare when a comment already stands above the property.
        if not (n == 0 and above is not None) and isinstance(described, str) and described != about:
            notes.append(described)
        if isinstance(variant, Mapping) and "default" in variant:
            notes.append(_default(variant))
        out += f"{indent} | {_nullable(variant, indent + '   ')}{_trailing(notes)}\n"
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
    kind = typescript(schema, indent)
    if isinstance(schema, Mapping) and schema.get("nullable") is True and "null" not in kind:
        return f"{kind} | null"
    return kind


def _default(schema: Schema, *, enums_bare: bool = True) -> str:
    default = schema["default"]
    values = schema.get("enum")
    is_enum = isinstance(values, list) and bool(values)
    if isinstance(default, str) and is_enum and enums_bare:
        return f"default: {default}"
    if isinstance(default, str) and not is_enum:
        return f'default: "{default}"'
    return f"default: {_json(default)}"


def _json(value: Any) -> str:
    """Compact JSON with exponents spelled `1e-7` and `1e16`, as the library does."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", text) if isinstance(value, float) else text


def _comment(text: object, indent: str) -> str:
    return f"{indent}// {text}\n" if isinstance(text, str) else ""


def _trailing(notes: list[str]) -> str:
    return f" // {' '.join(notes)}" if notes else ""
