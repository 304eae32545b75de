"""A chat request as Bedrock's Converse wants it for gpt-oss (pure).

| OpenAI | Converse |
|---|---|
| `system` and `developer` messages | `system[]`, in order, wherever they stood |
| `max_completion_tokens`, `max_tokens` | `inferenceConfig.maxTokens`, always sent: the quota reserves it |
| `temperature`, `top_p` | `inferenceConfig` |
| `reasoning_effort`, `seed`, `presence_penalty`, `frequency_penalty`, `parallel_tool_calls` | `additionalModelRequestFields` |
| `tools`, `tool_choice` | `toolConfig`; `none` leaves it out |
| past `reasoning` | left out: Bedrock refuses it |
| everything else | named by `unsupported` |
"""  # noqa: E501 (a table)

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from gateway.openai import (
    JSON_DEPTH_MAX,
    AssistantMessage,
    ChatRequest,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    deeper_than,
)

# What is sent when the caller names no bound. Bedrock reserves input + maxTokens of the quota per minute,
# and the model's whole maximum when it is left out.
MAX_TOKENS_DEFAULT: Final = 4096
# litellm's model data has 16,384; a reader of the model card 16,000. The larger one is let through.
MAX_TOKENS_CEILING: Final = 16_384

ENGINE_FIELDS: Final = (
    "reasoning_effort",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
)
TOOL_USE_ID: Final = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")


def unsupported(chat: ChatRequest) -> tuple[str, ...]:
    """The parameters of `chat` that gpt-oss on Bedrock cannot honour, in the request's own words."""
    return tuple(unsupported_parameters(chat))


def unsupported_parameters(chat: ChatRequest) -> Iterator[str]:
    if chat.stop:
        yield "stop"  # even an empty `stopSequences` is refused
    if chat.logprobs:
        yield "logprobs"
    if chat.top_logprobs:
        yield "top_logprobs"
    if chat.logit_bias:
        yield "logit_bias"
    if isinstance(chat.response_format, JsonSchemaFormat) or (
        chat.response_format is not None and chat.response_format.type == "json_object"
    ):
        yield "response_format"  # accepted there and answered with unconstrained text
    if chat.temperature is not None and chat.temperature > 1:
        yield "temperature"
    if (chat.max_output_tokens or 0) > MAX_TOKENS_CEILING:
        yield "max_completion_tokens" if chat.max_completion_tokens else "max_tokens"
    if uses_tools(chat) and not tool_config(chat):
        # Converse needs the tools of past calls, and has no way to offer tools that may not be used.
        yield "tool_choice" if chat.tools else "tools"
    yield from unsupported_messages(chat)


def unsupported_messages(chat: ChatRequest) -> Iterator[str]:
    first = next((message for message in chat.messages if not isinstance(message, SystemMessage)), None)
    if first is None or first.role != "user":
        yield "messages"  # a conversation starts with the user
    for position, message in enumerate(chat.messages):
        if not isinstance(message, ToolMessage) and message.name is not None:
            yield f"messages[{position}].name"
        if isinstance(message, AssistantMessage):
            for index, call in enumerate(message.tool_calls or ()):
                if arguments_of(call) is None:
                    yield f"messages[{position}].tool_calls[{index}].function.arguments"


def uses_tools(chat: ChatRequest) -> bool:
    """Whether the conversation holds tool calls or their results."""
    return any(
        isinstance(message, ToolMessage)
        or (isinstance(message, AssistantMessage) and bool(message.tool_calls))
        for message in chat.messages
    )


def converse_request(chat: ChatRequest, max_tokens_default: int = MAX_TOKENS_DEFAULT) -> dict[str, Any]:
    """The body of Converse and ConverseStream alike. Expects that `unsupported(chat)` is empty."""
    inference: dict[str, Any] = {"maxTokens": chat.max_output_tokens or max_tokens_default}
    if chat.temperature is not None:
        inference["temperature"] = chat.temperature
    if chat.top_p is not None:
        inference["topP"] = chat.top_p
    body: dict[str, Any] = {"messages": converse_messages(chat.messages), "inferenceConfig": inference}
    if system := [
        {"text": t} for m in chat.messages if isinstance(m, SystemMessage) for t in texts(m.content)
    ]:
        body["system"] = system
    if tools := tool_config(chat):
        body["toolConfig"] = tools
    wire = chat.wire()
    if fields := {name: wire[name] for name in ENGINE_FIELDS if wire.get(name) is not None}:
        body["additionalModelRequestFields"] = fields
    return body


def converse_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """User and assistant messages in turn; neighbours of one role become one message of several blocks."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        blocks = list(content_blocks(message))
        if not blocks:
            continue  # an assistant turn of reasoning alone
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def content_blocks(message: Message) -> Iterator[dict[str, Any]]:
    """The blocks of one message. Past reasoning is left out: Bedrock refuses it."""
    if isinstance(message, ToolMessage):
        content = [{"text": text} for text in texts(message.content)]
        yield {"toolResult": {"toolUseId": tool_use_id(message.tool_call_id), "content": content}}
    elif isinstance(message, AssistantMessage):
        for text in (*texts(message.content), *texts(message.refusal)):
            if text.strip():
                yield {"text": text}
        for call in message.tool_calls or ():
            use = {"toolUseId": tool_use_id(call.id), "name": call.function.name, "input": arguments_of(call)}
            yield {"toolUse": use}
    else:
        for text in texts(message.content):
            yield {"text": text}


def texts(content: str | list[Any] | None) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, TextPart):
            yield part.text
        elif isinstance(part, RefusalPart):
            yield part.refusal


def arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """The arguments of a past call as an object; None when they are not a JSON object, or nest too deep."""
    try:
        arguments = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(arguments, dict) or deeper_than(arguments, JSON_DEPTH_MAX):
        return None
    return arguments


def tool_use_id(call_id: str) -> str:
    """The id of a call as Bedrock allows it; one that does not fit becomes a digest, always the same."""
    if TOOL_USE_ID.fullmatch(call_id):
        return call_id
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def tool_config(chat: ChatRequest) -> Mapping[str, Any] | None:
    """`toolConfig`, or None when no tool is offered (also for `tool_choice: none`)."""
    if not chat.tools or chat.tool_choice == "none":
        return None
    return {
        "tools": [{"toolSpec": tool_spec(tool.function)} for tool in chat.tools],
        **tool_choice(chat),
    }


def tool_spec(function: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "name": function.name,
        "inputSchema": {"json": function.parameters or {"type": "object", "properties": {}}},
    }
    if function.description:
        spec["description"] = function.description
    if function.strict is not None:
        spec["strict"] = function.strict
    return spec


def tool_choice(chat: ChatRequest) -> dict[str, Any]:
    match chat.tool_choice:
        case "auto":
            return {"toolChoice": {"auto": {}}}
        case "required":
            return {"toolChoice": {"any": {}}}
        case NamedToolChoice(function=function):
            return {"toolChoice": {"tool": {"name": function.name}}}
    return {}
