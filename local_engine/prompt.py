"""From OpenAI's messages to harmony's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from local_engine.errors import Refused
from local_engine.harmony.conversation import (
    Effort,
    FunctionTool,
    Message,
    developer_message,
    drop_finished_reasoning,
    system_message,
)
from local_engine.wire import (
    AssistantMessage,
    ChatRequest,
    Content,
    InstructionMessage,
    ToolMessage,
    UserMessage,
    WireMessage,
)

DEFAULT_EFFORT: Effort = "medium"


def conversation_of(request: ChatRequest, today: date | None) -> list[Message]:
    """The harmony conversation of a request, system and developer message first.

    Instructions at the head become one developer message; later ones stay where they are. The analysis of
    finished turns is left out. Raises `Refused` for a tool message that answers no call.
    """
    tools = offered_tools(request)
    head = 0
    while head < len(request.messages) and isinstance(request.messages[head], InstructionMessage):
        head += 1
    instructions = "\n\n".join(text_of(message.content or "") for message in request.messages[:head])
    opening = [
        system_message(request.reasoning_effort or DEFAULT_EFFORT, today, bool(tools)),
        developer_message(instructions if head else None, tools),
    ]
    history = drop_finished_reasoning(_history(request.messages, head))
    return [message for message in opening if message is not None] + history


def offered_tools(request: ChatRequest) -> list[FunctionTool]:
    """The functions the model is told of: none under `tool_choice: none`."""
    if request.tool_choice == "none":
        return []
    return [
        FunctionTool(tool.function.name, tool.function.description or "", tool.function.parameters)
        for tool in request.tools or []
    ]


def text_of(content: Content) -> str:
    """Content parts joined as they are."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _history(messages: Sequence[WireMessage], head: int) -> list[Message]:
    out: list[Message] = []
    called: dict[str, str] = {}
    for n, message in enumerate(messages[head:], start=head):
        match message:
            case InstructionMessage():
                later = developer_message(text_of(message.content), [])
                out += [later] if later is not None else []
            case UserMessage():
                out.append(Message("user", text_of(message.content), name=message.name))
            case AssistantMessage():
                out += _assistant(message)
                called |= {call.id: call.function.name for call in message.tool_calls or []}
            case ToolMessage():
                if message.tool_call_id not in called:
                    raise Refused(
                        f"`messages[{n}].tool_call_id` matches no tool call before it",
                        param=f"messages[{n}].tool_call_id",
                        code="invalid_value",
                    )
                out.append(_tool_answer(called[message.tool_call_id], text_of(message.content)))
    return out


def _assistant(message: AssistantMessage) -> list[Message]:
    """Reasoning, then what was said, then what was called; text before a call is a preamble."""
    out = []
    if message.reasoning:
        out.append(Message("assistant", message.reasoning, channel="analysis"))
    text = text_of(message.content or "")
    if message.tool_calls:
        out += [Message("assistant", text, channel="commentary")] if text else []
        out += [
            Message(
                "assistant",
                call.function.arguments,
                channel="commentary",
                recipient=f"functions.{call.function.name}",
                constrain="json",
            )
            for call in message.tool_calls
        ]
    else:
        out.append(Message("assistant", text, channel="final"))
    return out


def _tool_answer(name: str, text: str) -> Message:
    return Message("tool", text, name=f"functions.{name}", channel="commentary", recipient="assistant")
