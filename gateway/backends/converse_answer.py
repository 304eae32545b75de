"""Converse's answers, plain and streamed, as OpenAI's (pure).

`reasoningContent` becomes `reasoning`, tool use becomes `tool_calls`, stop reasons become finish reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.backends.base import TOKENS_MAX, Chunk, Usage

FINISH_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "tool_use": "tool_calls",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "guardrail_intervened": "content_filter",
        "content_filtered": "content_filter",
        "malformed_model_output": "stop",
        "malformed_tool_use": "stop",
    }
)


class MalformedAnswer(Exception):
    """An answer that is no Converse answer."""


def usage_of(reported: Mapping[str, Any]) -> Usage:
    """Usage as reported. Converse does not tell reasoning tokens apart, so they stay 0: no estimates."""
    prompt, completion = reported["inputTokens"], reported["outputTokens"]
    cached = reported.get("cacheReadInputTokens") or 0
    if not all(type(count) is int and 0 <= count <= TOKENS_MAX for count in (prompt, completion, cached)):
        raise MalformedAnswer("a token count is no natural number of a possible size")
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


def finish_reason(stop_reason: str) -> str:
    """OpenAI's finish reason; a stop reason that is not known yet is `stop`."""
    return FINISH_REASONS.get(stop_reason, "stop")


def completion(answer: Mapping[str, Any], request_id: str, model: str, created_s: int) -> dict[str, Any]:
    """OpenAI's `chat.completion` for an answer of Converse. Raises MalformedAnswer."""
    try:
        content = answer["output"]["message"]["content"]
        text, reasoning, calls = "", "", []
        for block in content:
            if "text" in block:
                text += block["text"]
            elif "reasoningContent" in block:
                reasoning += block["reasoningContent"].get("reasoningText", {}).get("text", "")
            elif "toolUse" in block:
                calls.append(tool_call(block["toolUse"]))
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if reasoning:
            message["reasoning"] = reasoning
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(answer["stopReason"]),
        }
        return {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": created_s,
            "model": model,
            "choices": [choice],
            "usage": usage_of(answer["usage"]).wire(),
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise MalformedAnswer(type(error).__name__) from None


def tool_call(use: Mapping[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(use["input"]).decode()
    return {
        "id": use["toolUseId"],
        "type": "function",
        "function": {"name": use["name"], "arguments": arguments},
    }


class StreamTranslator:
    """Turns the events of one ConverseStream into chunks, in order.

    `messageStart` makes no chunk of its own: the role goes with the first content, so that a stream which
    fails before its first token has sent nothing and can still be tried elsewhere.
    """

    def __init__(self, request_id: str, model: str, created_s: int) -> None:
        head = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": model,
        }
        self._head = orjson.dumps(head)[:-1]
        self._role_due = True
        self._tool_index = -1
        self._tool_blocks: dict[int, int] = {}  # contentBlockIndex → index among the tool calls
        self._finish: str | None = None
        self.complete = False

    def translate(self, event_type: str, members: Mapping[str, Any]) -> tuple[Chunk, ...]:
        """The chunks of one event; none for events without content. Raises MalformedAnswer."""
        try:
            return self._translate(event_type, members)
        except (AttributeError, KeyError, TypeError) as error:
            raise MalformedAnswer(type(error).__name__) from None

    def _translate(self, event_type: str, members: Mapping[str, Any]) -> tuple[Chunk, ...]:
        match event_type:
            case "contentBlockDelta":
                delta = members["delta"]
                if "text" in delta:
                    return (self._delta({"content": delta["text"]}),)
                if "reasoningContent" in delta:
                    text = delta["reasoningContent"].get("text")
                    return (self._delta({"reasoning": text}),) if text else ()
                if "toolUse" in delta:
                    index = self._tool_blocks[members["contentBlockIndex"]]
                    part = {"index": index, "function": {"arguments": delta["toolUse"]["input"]}}
                    return (self._delta({"tool_calls": [part]}),)
            case "contentBlockStart":
                return self._start(members)
            case "messageStop":
                self._finish = finish_reason(members["stopReason"])
                return (self._delta({}, self._finish),)
            case "metadata":
                return (self._end(usage_of(members["usage"])),)
        return ()

    def _start(self, members: Mapping[str, Any]) -> tuple[Chunk, ...]:
        use = members["start"].get("toolUse")
        if use is None:
            return ()
        self._tool_index += 1
        self._tool_blocks[members["contentBlockIndex"]] = self._tool_index
        function = {"name": use["name"], "arguments": ""}
        call = {"index": self._tool_index, "id": use["toolUseId"], "type": "function", "function": function}
        return (self._delta({"tool_calls": [call]}),)

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> Chunk:
        if self._role_due:
            self._role_due = False
            delta = {"role": "assistant", "content": "", **delta}
        choice = orjson.dumps({"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish})
        return Chunk(b'%b,"choices":[%b]}' % (self._head, choice), finish)

    def _end(self, usage: Usage) -> Chunk:
        if self._finish is None:
            raise MalformedAnswer("`metadata` came before `messageStop`")
        self.complete = True
        return Chunk(b'%b,"choices":[],"usage":%b}' % (self._head, orjson.dumps(usage.wire())), None, usage)
