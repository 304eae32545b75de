"""The answers of the emulator: deterministic, useful in tests, and saying that no model wrote them.

A test steers an answer by directives in the last user text:

    [[call NAME {"a": 1}]]   use this offered tool with this input; several make several calls
    [[words N]]              answer with N words
    [[stop REASON]]          end with this Bedrock stop reason
    [[silent]]               no reasoning before the text
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.testing.bedrock.model import Call, padding
from gateway.testing.bedrock.quirks import MAX_OUTPUT_TOKENS

PIECE = re.compile(r"\s*\S+")
CALL = re.compile(r"\[\[call ([a-zA-Z0-9_-]{1,64}) (\{.*?\})\]\]", re.DOTALL)
WORDS = re.compile(r"\[\[words (\d{1,6})\]\]")
STOP = re.compile(r"\[\[stop ([a-z_]+)\]\]")
SILENT = "[[silent]]"


@dataclass(frozen=True, slots=True)
class ToolUse:
    id: str
    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the emulated model says: reasoning, text in pieces (each counts as a token), then tool calls."""

    reasoning: tuple[str, ...]
    text: tuple[str, ...]
    tools: tuple[ToolUse, ...]
    stop_reason: str
    input_tokens: int
    output_tokens: int


def compose(call: Call, region: str) -> Reply:
    """The reply to a call that was accepted."""
    text = last_user_text(call.members)
    tools = tuple(tool_uses(call, text))
    reasoning = pieces(
        "" if SILENT in text else f"The user wrote {len(text)} characters. No model is at work here."
    )
    answer = () if tools else pieces(f"[emulated Bedrock, {region}, no model] {body_text(text)}")
    budget = max_tokens(call)
    stop = STOP.search(text)
    reason = stop[1] if stop else ("tool_use" if tools else "end_turn")
    spent = len(reasoning) + len(answer)
    if spent > budget:
        reasoning, answer, reason = (
            reasoning[:budget],
            answer[: max(0, budget - len(reasoning))],
            "max_tokens",
        )
        tools = ()
    output = len(reasoning) + len(answer) + sum(len(pieces(str(orjson.dumps(t.input)))) + 2 for t in tools)
    return Reply(reasoning, answer, tools, reason, count_input(call.members), output)


def pieces(text: str) -> tuple[str, ...]:
    return tuple(PIECE.findall(text))


def max_tokens(call: Call) -> int:
    limit: int = call.members.get("inferenceConfig", {}).get("maxTokens", MAX_OUTPUT_TOKENS)
    return limit


def last_user_text(members: Mapping[str, Any]) -> str:
    for message in reversed(members.get("messages", [])):
        if message["role"] == "user":
            return "\n".join(block_text(block) for block in message["content"])
    return ""


def block_text(block: Mapping[str, Any]) -> str:
    if "toolResult" in block:
        return "\n".join(part.get("text", "") for part in block["toolResult"]["content"])
    text: str = block.get("text", "")
    return text


def body_text(text: str) -> str:
    wanted = WORDS.search(text)
    if wanted:
        return " ".join(f"word{n}" for n in range(int(wanted[1])))
    return f"You said: {text}" if text else "You said nothing."


def count_input(members: Mapping[str, Any]) -> int:
    """The emulator's own count: words of every text in the request, and four for each message."""
    texts = [block["text"] for block in members.get("system", []) if "text" in block]
    texts += [block_text(block) for message in members.get("messages", []) for block in message["content"]]
    return sum(len(PIECE.findall(text)) for text in texts) + 4 * len(members.get("messages", [])) + 1


def tool_uses(call: Call, text: str) -> Iterator[ToolUse]:
    """The tool calls of the reply: those of the directives, else one when `toolChoice` demands it."""
    config = call.members.get("toolConfig")
    if config is None:
        return
    specs = {tool["toolSpec"]["name"]: tool["toolSpec"] for tool in config["tools"] if "toolSpec" in tool}
    asked = [(name, orjson.loads(arguments)) for name, arguments in CALL.findall(text) if name in specs]
    choice = config.get("toolChoice", {})
    if not asked and "tool" in choice and choice["tool"]["name"] in specs:
        asked = [
            (choice["tool"]["name"], example(specs[choice["tool"]["name"]]["inputSchema"].get("json", {})))
        ]
    elif not asked and "any" in choice and specs:
        name, spec = next(iter(specs.items()))
        asked = [(name, example(spec["inputSchema"].get("json", {})))]
    for position, (name, value) in enumerate(asked):
        digest = hashlib.sha256(orjson.dumps([position, name, value, text])).hexdigest()
        yield ToolUse(f"tooluse_{digest[:22]}", name, value)


def example(schema: Any) -> Any:
    """The smallest value that a JSON schema suggests: required members only, the first of an enumeration."""
    if not isinstance(schema, dict):
        return {}
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {
            name: example(properties.get(name, {"type": "string"})) for name in schema.get("required", [])
        }
    return {"string": "emulated", "integer": 1, "number": 1.5, "boolean": True, "array": []}.get(kind)


def usage(reply: Reply) -> dict[str, int]:
    return {
        "inputTokens": reply.input_tokens,
        "outputTokens": reply.output_tokens,
        "totalTokens": reply.input_tokens + reply.output_tokens,
    }


def converse_body(reply: Reply, call: Call, latency_ms: int) -> dict[str, Any]:
    """The answer of Converse; the reasoning block comes before the text."""
    content: list[dict[str, Any]] = []
    if reply.reasoning:
        content.append({"reasoningContent": {"reasoningText": {"text": "".join(reply.reasoning)}}})
    if reply.text:
        content.append({"text": "".join(reply.text)})
    content += [{"toolUse": {"toolUseId": t.id, "name": t.name, "input": t.input}} for t in reply.tools]
    return {
        "metrics": {"latencyMs": latency_ms},
        "output": {"message": {"content": content, "role": "assistant"}},
        "stopReason": reply.stop_reason,
        "usage": usage(reply),
        **tier(call),
    }


def converse_events(reply: Reply, call: Call, latency_ms: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of ConverseStream in order, as (event type, members with padding)."""
    yield padded("messageStart", {"role": "assistant"}, "start")
    index = 0
    for deltas, wrap in (
        (reply.reasoning, lambda piece: {"reasoningContent": {"text": piece}}),
        (reply.text, lambda piece: {"text": piece}),
    ):
        for piece in deltas:
            yield padded("contentBlockDelta", {"contentBlockIndex": index, "delta": wrap(piece)}, piece)
        if deltas:
            yield padded("contentBlockStop", {"contentBlockIndex": index}, "stop")
            index += 1
    for tool in reply.tools:
        start = {"toolUse": {"toolUseId": tool.id, "name": tool.name}}
        yield padded("contentBlockStart", {"contentBlockIndex": index, "start": start}, tool.name)
        arguments = orjson.dumps(tool.input).decode()
        for part in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
            yield padded(
                "contentBlockDelta", {"contentBlockIndex": index, "delta": {"toolUse": {"input": part}}}, part
            )
        yield padded("contentBlockStop", {"contentBlockIndex": index}, "stop")
        index += 1
    yield padded("messageStop", {"stopReason": reply.stop_reason}, reply.stop_reason)
    yield padded(
        "metadata", {"metrics": {"latencyMs": latency_ms}, "usage": usage(reply), **tier(call)}, "metadata"
    )


def padded(event_type: str, members: dict[str, Any], text: str) -> tuple[str, dict[str, Any]]:
    return event_type, {**members, "p": padding(text)}


def tier(call: Call) -> dict[str, Any]:
    return {"serviceTier": call.members["serviceTier"]} if "serviceTier" in call.members else {}
