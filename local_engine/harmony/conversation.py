"""A conversation in harmony's terms, and the two messages that open it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from local_engine.harmony.schema_ts import tools_section

Role = Literal["system", "developer", "user", "assistant", "tool"]
Effort = Literal["low", "medium", "high"]

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
KNOWLEDGE_CUTOFF = "2024-06"
CHANNELS = ("analysis", "commentary", "final")


@dataclass(frozen=True, slots=True)
class Message:
    """One harmony message.

    `name` follows a user's or assistant's role after a colon and *is* the role of a tool message.
    `constrain` is the word after `<|constrain|>`, in practice `json`.
    """

    role: Role
    text: str
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    constrain: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function the model may call; `parameters` is its JSON schema, None for a function without any."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


def system_message(effort: Effort, today: date | None, has_functions: bool) -> Message:
    """The opening message: identity, dates, effort, channels. The user's own instructions are not here."""
    top = [IDENTITY, f"Knowledge cutoff: {KNOWLEDGE_CUTOFF}"]
    if today is not None:
        top.append(f"Current date: {today.isoformat()}")
    channels = f"# Valid channels: {', '.join(CHANNELS)}. Channel must be included for every message."
    if has_functions:
        channels += "\nCalls to these tools must go to the commentary channel: 'functions'."
    return Message("system", "\n\n".join(["\n".join(top), f"Reasoning: {effort}", channels]))


def developer_message(instructions: str | None, tools: Sequence[FunctionTool]) -> Message | None:
    """What callers know as the system prompt, and the tools; None when there is neither."""
    sections = []
    if instructions is not None:
        sections += ["# Instructions", instructions]
    if tools:
        sections.append(tools_section(tools))
    return Message("developer", "\n\n".join(sections)) if sections else None


def drop_finished_reasoning(messages: Sequence[Message]) -> list[Message]:
    """Leaves out the analysis of finished turns, as the model was trained without it.

    A turn is finished by an assistant message in the final channel; while a tool loop is open, its analysis
    stays, because the model still needs it.
    """
    last_final = max((n for n, m in enumerate(messages) if m.channel == "final"), default=-1)
    return [m for n, m in enumerate(messages) if n > last_final or m.channel != "analysis"]
