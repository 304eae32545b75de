"""A conversation in harmony's terms, and the two messages that open it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from local_engine.harmony.schema_ts import compact_json, one_line, split_lines, tools_section

Role = Literal["system", "developer", "user", "assistant", "tool"]
Effort = Literal["low", "medium", "high"]

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
KNOWLEDGE_CUTOFF = "2024-06"
CHANNELS = ("analysis", "commentary", "final")


@dataclass(frozen=True, slots=True)
class Message:
    """One harmony message.

    `name` follows a user's or assistant's role after a colon and *is* the role of a tool message. `constrain`
    is the word after `<|constrain|>`, in practice `json`. `tokens`, where there are any, are the whole
    message as the model sampled it, from `<|start|>` on: they are what is rendered, whatever the other fields
    say.
    """

    role: Role
    text: str
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    constrain: str | None = None
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function the model may call; `parameters` is its JSON schema, None for a function without any."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What the final message has to be: JSON of this schema."""

    name: str
    description: str | None
    schema: Mapping[str, Any]


def system_message(effort: Effort, today: date | None, has_functions: bool) -> Message:
    """The opening message: identity, dates, effort, channels. The user's own instructions are not here."""
    top = [IDENTITY, f"Knowledge cutoff: {KNOWLEDGE_CUTOFF}"]
    if today is not None:
        top.append(f"Current date: {today.isoformat()}")
    channels = f"# Valid channels: {', '.join(CHANNELS)}. Channel must be included for every message."
    if has_functions:
        channels += "\nCalls to these tools must go to the commentary channel: 'functions'."
    return Message("system", "\n\n".join(["\n".join(top), f"Reasoning: {effort}", channels]))


def developer_message(
    instructions: str | None, tools: Sequence[FunctionTool], answer: AnswerFormat | None = None
) -> Message | None:
    """What callers know as the system prompt, the tools, the form of the answer; None without any of them.

    Raises `ValueError` or `RecursionError` when the answer's schema cannot be written as JSON.
    """
    sections = []
    if instructions is not None:
        sections += ["# Instructions", instructions]
    if tools:
        sections.append(tools_section(tools))
    if answer is not None:
        sections.append(formats_section(answer))
    return Message("developer", "\n\n".join(sections)) if sections else None


def formats_section(answer: AnswerFormat) -> str:
    """The `# Response Formats` section, as OpenAI describes it; the library renders none."""
    about = "\n".join(f"// {line}" for line in split_lines(answer.description or ""))
    schema = compact_json(answer.schema)
    named = f"# Response Formats\n\n## {one_line(answer.name)}\n\n"
    return f"{named}{about}\n{schema}" if about else named + schema


def drop_finished_reasoning(messages: Sequence[Message]) -> list[Message]:
    """Leaves out the analysis of finished turns, as the model was trained without it.

    A turn is finished by the assistant's last word to the user: a message in the final channel, or one to
    nobody that no further message of the assistant follows. While a tool loop is open, through however many
    calls, its analysis stays, because the model still needs it. The library drops only what precedes the
    first final message, and nothing unless the last message is final.
    """
    last = max((n for n in range(len(messages)) if _finishes(messages, n)), default=-1)
    return [m for n, m in enumerate(messages) if n > last or m.channel != "analysis"]


def _finishes(messages: Sequence[Message], n: int) -> bool:
    message = messages[n]
    if message.role != "assistant" or message.recipient is not None or message.channel == "analysis":
        return False
    followed = n + 1 < len(messages) and messages[n + 1].role == "assistant"
    return message.channel == "final" or not followed
