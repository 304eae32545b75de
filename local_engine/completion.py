"""OpenAI's chat answer shapes: one completion, or the chunks of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from local_engine.answer import CallArguments, CallStart, ContentDelta, FinishReason, Piece, ReasoningDelta
from local_engine.text import TokenLogprob

IMPOSSIBLE = -9999.0
"""OpenAI's floor for a log-probability; json has no infinity."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every object of one answer repeats. `created` is a Unix time in seconds."""

    id: str
    created: int
    model: str
    fingerprint: str
    logprobs: bool

    def base(self, kind: str) -> dict[str, Any]:
        """The head of an object of this kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a request: the prompt once, the tokens of all choices.

    `reasoning_tokens` are part of `completion_tokens`, and `cached_tokens`, those of the prompt that were not
    computed anew, part of `prompt_tokens`.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    def body(self) -> dict[str, Any]:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished choice: all its pieces, and why it ended."""

    pieces: Sequence[Piece]
    finish_reason: FinishReason

    @property
    def content(self) -> str:
        """What was said."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, ContentDelta))

    @property
    def reasoning(self) -> str:
        """What was thought."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, ReasoningDelta))

    @property
    def calls(self) -> list[tuple[CallStart, str]]:
        """The tool calls, each with its arguments."""
        return [
            (
                start,
                "".join(
                    p.text for p in self.pieces if isinstance(p, CallArguments) and p.index == start.index
                ),
            )
            for start in self.pieces
            if isinstance(start, CallStart)
        ]


def completion(envelope: Envelope, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
    """A whole `chat.completion`."""
    bodies = [_choice(envelope, index, choice) for index, choice in enumerate(choices)]
    return envelope.base("chat.completion") | {"choices": bodies, "usage": usage.body()}


def opening_chunk(envelope: Envelope, choice: int) -> dict[str, Any]:
    """The first chunk of a choice: the role."""
    return _chunk(envelope, choice, {"role": "assistant", "content": ""})


def piece_chunk(envelope: Envelope, choice: int, piece: Piece) -> dict[str, Any]:
    """The chunk that carries one piece."""
    match piece:
        case ReasoningDelta(text=text):
            return _chunk(envelope, choice, {"reasoning": text})
        case ContentDelta(text=text, logprobs=logprobs):
            return _chunk(envelope, choice, {"content": text}, logprobs=logprobs)
        case CallStart(index=index):
            return _chunk(envelope, choice, {"tool_calls": [{"index": index, **_call(piece, "")}]})
        case CallArguments(index=index, text=text, logprobs=logprobs):
            delta = {"index": index, "function": {"arguments": text}}
            return _chunk(envelope, choice, {"tool_calls": [delta]}, logprobs=logprobs)


def closing_chunk(envelope: Envelope, choice: int, finish_reason: FinishReason) -> dict[str, Any]:
    """The last chunk of a choice: why it ended."""
    return _chunk(envelope, choice, {}, finish_reason)


def usage_chunk(envelope: Envelope, usage: Usage) -> dict[str, Any]:
    """The chunk without choices that `stream_options.include_usage` asks for."""
    return envelope.base("chat.completion.chunk") | {"choices": [], "usage": usage.body()}


def token_text(data: bytes) -> str:
    """A token as text; one that is part of a character as `bytes:\\xe2\\x82`, as OpenAI writes it."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _choice(envelope: Envelope, index: int, choice: Choice) -> dict[str, Any]:
    """`content` is null only beside tool calls; `reasoning` is absent when there is none."""
    calls = [_call(start, arguments) for start, arguments in choice.calls]
    message: dict[str, Any] = {"role": "assistant", "content": choice.content or (None if calls else "")}
    if choice.reasoning:
        message["reasoning"] = choice.reasoning
    if calls:
        message["tool_calls"] = calls
    logprobs = [
        one
        for piece in choice.pieces
        if isinstance(piece, ContentDelta | CallArguments)
        for one in piece.logprobs
    ]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(logprobs) if envelope.logprobs else None,
        "finish_reason": choice.finish_reason,
    }


def _chunk(
    envelope: Envelope,
    choice: int,
    delta: dict[str, Any],
    finish_reason: FinishReason | None = None,
    logprobs: Sequence[TokenLogprob] | None = None,
) -> dict[str, Any]:
    body = {
        "index": choice,
        "delta": delta,
        "logprobs": _logprobs(logprobs) if envelope.logprobs and logprobs is not None else None,
        "finish_reason": finish_reason,
    }
    return envelope.base("chat.completion.chunk") | {"choices": [body]}


def _call(start: CallStart, arguments: str) -> dict[str, Any]:
    return {"id": start.id, "type": "function", "function": {"name": start.name, "arguments": arguments}}


def _logprobs(chosen: Sequence[TokenLogprob]) -> dict[str, Any]:
    entries = [
        _logprob(one.data, one.logprob) | {"top_logprobs": [_logprob(data, value) for data, value in one.top]}
        for one in chosen
    ]
    return {"content": entries, "refusal": None}


def _logprob(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token_text(data), "logprob": max(logprob, IMPOSSIBLE), "bytes": list(data)}
