"""From OpenAI's messages to harmony's.

Of the request, the prompt shows the messages, the tools, the effort and the form of the answer. `tool_choice`
hides the tools at `none` and otherwise is, like `parallel_tool_calls`, a matter of what may be sampled: the
model was trained without words for either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

from local_engine.errors import Refused
from local_engine.harmony.conversation import (
    AnswerFormat,
    Effort,
    FunctionTool,
    Message,
    developer_message,
    drop_finished_reasoning,
    system_message,
)
from local_engine.replay import Seen, SeenCall
from local_engine.wire import (
    AssistantMessage,
    ChatRequest,
    Content,
    InstructionMessage,
    JsonObjectFormat,
    JsonSchemaFormat,
    ToolCall,
    ToolMessage,
    UserMessage,
    WireMessage,
)

DEFAULT_EFFORT: Effort = "medium"


JSON_OBJECT = AnswerFormat("json_object", "Answer with one JSON object and nothing else.", {"type": "object"})
"""What the model is told of `response_format: json_object`, for which harmony has no words of its own: the
same section as for a schema, with the widest schema there is for an object."""

Recall = Callable[[Seen], tuple[Message, ...] | None]
"""Gives a past assistant message as it was sampled, e.g. `partial(replay.recall, salt)`."""


def conversation_of(request: ChatRequest, today: date | None, recall: Recall | None = None) -> list[Message]:
    """The harmony conversation of a request, system and developer message first.

    Instructions at the head become one developer message, with the tools and the form of the answer behind
    them; later ones stay where they are. An assistant message that `recall` knows is what was sampled. The
    answers to several calls stand in the order of the calls. The analysis of finished turns is left out.

    Raises `Refused`, naming the place, for tool calls with the same id, a tool message that answers no call
    of the assistant message before it or one already answered, and a call that nothing answers.
    """
    tools = offered_tools(request)
    head = 0
    while head < len(request.messages) and isinstance(request.messages[head], InstructionMessage):
        head += 1
    instructions = "\n\n".join(text_of(message.content or "") for message in request.messages[:head])
    opening = [
        system_message(request.reasoning_effort or DEFAULT_EFFORT, today, bool(tools)),
        _developer_message(instructions if head else None, tools, answer_format(request)),
    ]
    history = drop_finished_reasoning(_history(request.messages, head, recall))
    return [message for message in opening if message is not None] + history


def answer_format(request: ChatRequest) -> AnswerFormat | None:
    """The form that the request wants the answer in; None for plain text."""
    match request.response_format:
        case JsonObjectFormat():
            return JSON_OBJECT
        case JsonSchemaFormat(json_schema=wanted):
            return AnswerFormat(wanted.name, wanted.description, wanted.schema_ or {})
        case _:
            return None


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


def seen_of(message: AssistantMessage) -> Seen:
    """A past assistant message by what a client knows of it."""
    calls = [SeenCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []]
    return Seen(text_of(message.content or ""), tuple(calls), message.reasoning or "")


def _developer_message(
    instructions: str | None, tools: list[FunctionTool], answer: AnswerFormat | None
) -> Message | None:
    try:
        return developer_message(instructions, tools, answer)
    except (ValueError, RecursionError):
        raise _refused("response_format.json_schema.schema", "nests too deeply: flatten it") from None


def _history(messages: Sequence[WireMessage], head: int, recall: Recall | None) -> list[Message]:
    out: list[Message] = []
    calls = _Calls.of(head, None)
    for n, message in enumerate(messages[head:], start=head):
        if isinstance(message, ToolMessage):
            calls.answer(n, message)
            continue
        out += calls.answers()
        calls = _Calls.of(n, message)
        match message:
            case InstructionMessage():
                later = developer_message(text_of(message.content), [])
                out += [later] if later is not None else []
            case UserMessage():
                out.append(Message("user", text_of(message.content), name=message.name))
            case AssistantMessage():
                out += (recall(seen_of(message)) if recall is not None else None) or _assistant(message)
    return out + calls.answers()


class _Calls:
    """The tool calls of one message, and the answers that came for them; none for most messages."""

    def __init__(self, place: str, calls: Sequence[ToolCall]) -> None:
        self._place = place
        self._names = {call.id: call.function.name for call in calls}
        self._answers: dict[str, Message] = {}

    @classmethod
    def of(cls, n: int, message: WireMessage | None) -> _Calls:
        """The calls of message `n`. Raises `Refused` when two have the same id."""
        calls = (message.tool_calls or []) if isinstance(message, AssistantMessage) else []
        place = f"messages[{n}].tool_calls"
        ids: set[str] = set()
        for k, call in enumerate(calls):
            if call.id in ids:
                raise _refused(f"{place}[{k}].id", "is the id of an earlier call: give each call its own")
            ids.add(call.id)
        return cls(place, calls)

    def answer(self, n: int, message: ToolMessage) -> None:
        """Takes message `n` as an answer. Raises `Refused` when it is none."""
        place, call = f"messages[{n}].tool_call_id", message.tool_call_id
        if call not in self._names:
            raise _refused(place, "matches no tool call of the assistant message before it")
        if call in self._answers:
            raise _refused(place, "was answered before: give each call one answer")
        self._answers[call] = _tool_answer(self._names[call], text_of(message.content))

    def answers(self) -> list[Message]:
        """All answers in the order of the calls. Raises `Refused` when one is missing."""
        for k, call in enumerate(self._names):
            if call not in self._answers:
                raise _refused(f"{self._place}[{k}]", "has no answer: a tool message with its id must follow")
        return [self._answers[call] for call in self._names]


def _refused(place: str, wrong: str) -> Refused:
    return Refused(f"`{place}` {wrong}", param=place, code="invalid_value")


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
