"""OpenAI's answer shapes: one completion, or the chunks of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from local_engine.answer import (
    CallArguments,
    CallStart,
    ContentDelta,
    FinishReason,
    Piece,
    ReasoningDelta,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every object of one answer repeats. `created` is a Unix time in seconds."""

    id: str
    created: int
    model: str
    fingerprint: str
    logprobs: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `reasoning_tokens` are part of `completion_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    def body(self) -> dict[str, Any]:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def completion(
    envelope: Envelope, pieces: Sequence[Piece], finish_reason: FinishReason, usage: Usage
) -> dict[str, Any]:
    """A whole `chat.completion`. `content` is null only beside tool calls; `reasoning` is absent if empty."""
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningDelta))
    content = "".join(piece.text for piece in pieces if isinstance(piece, ContentDelta))
    calls = [
        _call(
            start, "".join(p.text for p in pieces if isinstance(p, CallArguments) and p.index == start.index)
        )
        for start in pieces
        if isinstance(start, CallStart)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    if reasoning:
        message["reasoning"] = reasoning
    if calls:
        message["tool_calls"] = calls
    logprobs = [chosen for piece in pieces if isinstance(piece, ContentDelta) for chosen in piece.logprobs]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(logprobs) if envelope.logprobs else None,
        "finish_reason": finish_reason,
    }
    return _base(envelope, "chat.completion") | {"choices": [choice], "usage": usage.body()}


def opening_chunk(envelope: Envelope) -> dict[str, Any]:
    """The first chunk of a stream: the role."""
    return _chunk(envelope, {"role": "assistant", "content": ""}, None, None)


def piece_chunk(envelope: Envelope, piece: Piece) -> dict[str, Any]:
    """The chunk that carries one piece."""
    match piece:
        case ReasoningDelta(text=text):
            return _chunk(envelope, {"reasoning": text}, None, None)
        case ContentDelta(text=text, logprobs=logprobs):
            return _chunk(envelope, {"content": text}, None, logprobs if envelope.logprobs else None)
        case CallStart(index=index):
            return _chunk(envelope, {"tool_calls": [{"index": index, **_call(piece, "")}]}, None, None)
        case CallArguments(index=index, text=text):
            delta = {"index": index, "function": {"arguments": text}}
            return _chunk(envelope, {"tool_calls": [delta]}, None, None)


def closing_chunk(envelope: Envelope, finish_reason: FinishReason) -> dict[str, Any]:
    """The last chunk with a choice: why it ended."""
    return _chunk(envelope, {}, finish_reason, None)


def usage_chunk(envelope: Envelope, usage: Usage) -> dict[str, Any]:
    """The chunk without choices that `stream_options.include_usage` asks for."""
    return _base(envelope, "chat.completion.chunk") | {"choices": [], "usage": usage.body()}


def _base(envelope: Envelope, kind: str) -> dict[str, Any]:
    return {
        "id": envelope.id,
        "object": kind,
        "created": envelope.created,
        "model": envelope.model,
        "system_fingerprint": envelope.fingerprint,
    }


def _chunk(
    envelope: Envelope,
    delta: dict[str, Any],
    finish_reason: FinishReason | None,
    logprobs: Sequence[TokenLogprob] | None,
) -> dict[str, Any]:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": None if logprobs is None else _logprobs(logprobs),
        "finish_reason": finish_reason,
    }
    return _base(envelope, "chat.completion.chunk") | {"choices": [choice]}


def _call(start: CallStart, arguments: str) -> dict[str, Any]:
    return {"id": start.id, "type": "function", "function": {"name": start.name, "arguments": arguments}}


def _logprobs(chosen: Sequence[TokenLogprob]) -> dict[str, Any]:
    entries = [
        _logprob(one.data, one.logprob) | {"top_logprobs": [_logprob(data, value) for data, value in one.top]}
        for one in chosen
    ]
    return {"content": entries, "refusal": None}


def _logprob(data: bytes, logprob: float) -> dict[str, Any]:
    # OpenAI's floor for "practically impossible"; JSON has no infinity.
    return {
        "token": data.decode("utf-8", errors="replace"),
        "logprob": max(logprob, -9999.0),
        "bytes": list(data),
    }
