"""The older completions API on raw text: what a request may hold, and the shapes of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from local_engine.completion import IMPOSSIBLE, Envelope, Usage, token_text
from local_engine.errors import Refused
from local_engine.harmony.tokens import VOCABULARY_SIZE
from local_engine.reading import parse_object, validated
from local_engine.text import Shown, TokenLogprob
from local_engine.wire import SamplingFields, check_sampling

MAX_PROMPTS = 64
MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""

NEUTRAL: dict[str, tuple[Any, ...]] = {"best_of": (1,), "suffix": (), "user": ()}
"""As `wire.NEUTRAL`, for completions."""

TokenId = Annotated[int, Field(ge=0, lt=VOCABULARY_SIZE)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Prompts = Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]


class CompletionRequest(SamplingFields):
    """A completion request as far as this engine honours it."""

    prompt: Text | Ids | Prompts
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        prompts: list[str | list[int]] = []
        ids: list[int] = []
        for one in self.prompt:
            if isinstance(one, int):
                ids.append(one)
            else:
                prompts.append(one)
        return [ids] if ids else prompts


def parse_completion_request(body: bytes) -> CompletionRequest:
    """Reads a request body. Raises `Refused` as `wire.parse_chat_request` does."""
    request = validated(CompletionRequest, parse_object(body), NEUTRAL)
    check_sampling(request)
    if request.echo and request.logprobs is not None:
        raise Refused(
            "`echo` with `logprobs` is not supported: this engine keeps no log-probabilities of prompts",
            param="echo",
            code="unsupported_value",
        )
    return request


RawReason = Literal["stop", "length"]


def text_completion(
    envelope: Envelope, choices: Sequence[tuple[Shown, RawReason]], usage: Usage
) -> dict[str, Any]:
    """A whole `text_completion`."""
    bodies = [_choice(envelope, index, piece, reason) for index, (piece, reason) in enumerate(choices)]
    return envelope.base("text_completion") | {"choices": bodies, "usage": usage.body()}


def text_chunk(
    envelope: Envelope, choice: int, piece: Shown, reason: RawReason | None = None
) -> dict[str, Any]:
    """A chunk of a stream: more text, and at the end why it ended."""
    return envelope.base("text_completion") | {"choices": [_choice(envelope, choice, piece, reason)]}


def text_usage_chunk(envelope: Envelope, usage: Usage) -> dict[str, Any]:
    """The chunk without choices that `stream_options.include_usage` asks for."""
    return envelope.base("text_completion") | {"choices": [], "usage": usage.body()}


def _choice(envelope: Envelope, index: int, piece: Shown, reason: RawReason | None) -> dict[str, Any]:
    return {
        "text": piece.text,
        "index": index,
        "logprobs": _logprobs(piece.logprobs) if envelope.logprobs else None,
        "finish_reason": reason,
    }


def _logprobs(chosen: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Parallel lists; the likeliest tokens by their text, the chosen one among them."""
    return {
        "tokens": [token_text(one.data) for one in chosen],
        "token_logprobs": [max(one.logprob, IMPOSSIBLE) for one in chosen],
        "top_logprobs": [
            {token_text(data): max(value, IMPOSSIBLE) for data, value in (*one.top, (one.data, one.logprob))}
            for one in chosen
        ],
        "text_offset": [one.at for one in chosen],
    }
