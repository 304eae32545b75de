"""OpenAI's chat wire as a client sees it: request bodies, answers, server-sent events and errors (pure).

What an upstream says about itself is replaced: `id` and `model` are the gateway's, `reasoning_content`
becomes `reasoning`. An upstream's error text may repeat the prompt and is never passed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from gateway.backends.base import (
    TOKENS_MAX,
    BackendFault,
    Broken,
    Chunk,
    Misconfigured,
    Refused,
    ServerFault,
    Throttled,
    Upstream,
    Usage,
)
from gateway.openai import ChatRequest

EVENT_BYTES_MAX: Final = 4 * 1024 * 1024
RETRY_AFTER_MAX_S: Final = 3600.0
CONTEXT_CODES: Final = frozenset({"context_length_exceeded"})
FILTER_CODES: Final = frozenset({"content_filter", "content_policy_violation"})
CONTEXT_FAULT: Final = "prompt and answer do not fit the model's context; shorten the prompt"
SHAPE_ERRORS: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)

Full = Callable[..., BackendFault]


def request_body(chat: ChatRequest, upstream_model: str, *, stream: bool) -> bytes:
    """The request for an OpenAI-compatible server; the usage chunk of a stream is always asked for."""
    body = chat.forwarded()
    body["messages"] = [past_message(message) for message in body["messages"]]
    body["model"] = upstream_model
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return orjson.dumps(body)


def past_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message as every server reads it: an assistant's holds content, reasoning and calls, nothing else."""
    if message["role"] != "assistant":
        return message
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or part.get("refusal") or "" for part in content)
    kept = {
        "role": "assistant",
        "content": content if content is not None else message.get("refusal"),
        "reasoning": message.get("reasoning") or message.get("reasoning_content"),
        "tool_calls": message.get("tool_calls"),
        "name": message.get("name"),
    }
    return {key: value for key, value in kept.items() if value is not None or key == "content"}


def usage_of(reported: Mapping[str, Any]) -> Usage:
    """Usage as reported; what is not reported is 0, never estimated."""
    completion = reported.get("completion_tokens_details") or {}
    prompt = reported.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=count(reported["prompt_tokens"]),
        completion_tokens=count(reported["completion_tokens"]),
        reasoning_tokens=count(completion.get("reasoning_tokens") or 0),
        cached_tokens=count(prompt.get("cached_tokens") or 0),
    )


def count(value: Any) -> int:
    """A number of tokens. Raises ValueError for anything else: these numbers are billed."""
    if type(value) is not int or not 0 <= value <= TOKENS_MAX:
        raise ValueError("a token count is no natural number of a possible size")
    return value


def normalise_reasoning(message: dict[str, Any]) -> None:
    """`reasoning_content` (vLLM, SGLang) becomes `reasoning`, in place."""
    text = message.pop("reasoning_content")
    if text and not message.get("reasoning"):
        message["reasoning"] = text


def completion(body: bytes, request_id: str, model: str) -> tuple[dict[str, Any], Usage]:
    """A plain answer under the gateway's id and model. Raises ValueError when it is no usable answer."""
    try:
        answer = orjson.loads(body)
        for choice in answer["choices"]:
            if "reasoning_content" in choice["message"]:
                normalise_reasoning(choice["message"])
        answer["choices"][0]["finish_reason"]
        usage = usage_of(answer["usage"])
    except SHAPE_ERRORS as error:
        raise ValueError(type(error).__name__) from None
    answer["id"] = f"chatcmpl-{request_id}"
    answer["object"] = "chat.completion"
    answer["model"] = model
    answer["usage"] = usage.wire()
    return answer, usage


class SseDecoder:
    """Server-sent events of one streamed answer to chunks. Every way to break is a BackendFault."""

    def __init__(self, request_id: str, model: str, place_id: str, upstream: Upstream) -> None:
        self._id = f"chatcmpl-{request_id}"
        self._model = model
        self._place_id = place_id
        self._upstream = upstream
        self._rest = b""
        self._usage: tuple[Usage, dict[str, Any]] | None = None  # the latest, and the chunk to tell it with
        self._usage_seen = False
        self._done = False

    @property
    def complete(self) -> bool:
        return self._done and self._usage_seen

    def feed(self, data: bytes) -> tuple[Chunk, ...]:
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > EVENT_BYTES_MAX:
            raise self._broken("has an event that is too long")
        chunks: list[Chunk] = []
        for event in events:
            if event.startswith(b"data: {") and b"\n" not in event:
                self._chunk(event[6:], chunks)  # what nearly every event looks like
            else:
                payload = data_of(event)
                if payload == b"[DONE]":
                    self._done = True
                    self._tell_usage(chunks)
                elif payload:
                    self._chunk(payload, chunks)
        return tuple(chunks)

    def _chunk(self, payload: bytes, chunks: list[Chunk]) -> None:
        try:
            self._translate(orjson.loads(payload), chunks)
        except SHAPE_ERRORS:
            raise self._broken("has an event that is no chunk") from None

    def _translate(self, chunk: dict[str, Any], chunks: list[Chunk]) -> None:
        if "error" in chunk:
            raise error_fault(chunk["error"], self._place_id, self._upstream)
        chunk["id"] = self._id
        chunk["model"] = self._model
        reported = chunk.pop("usage", None)
        finish = None
        if choices := chunk["choices"]:
            delta, finish = choices[0]["delta"], choices[0].get("finish_reason")
            if type(delta) is not dict or not (finish is None or type(finish) is str):
                raise TypeError
            if "reasoning_content" in delta:
                normalise_reasoning(delta)
            chunks.append(Chunk(orjson.dumps(chunk), finish))
        if reported is not None:
            self._usage = usage_of(reported), chunk
            # Some servers report it with every chunk as it grows: only the last counts.
            if finish is not None or not choices:
                self._tell_usage(chunks)

    def _tell_usage(self, chunks: list[Chunk]) -> None:
        """The usage as a chunk of its own, once."""
        if self._usage is not None and not self._usage_seen:
            self._usage_seen = True
            usage, chunk = self._usage
            event = {**chunk, "choices": [], "usage": usage.wire()}
            chunks.append(Chunk(orjson.dumps(event), None, usage))

    def _broken(self, what: str) -> Broken:
        return Broken(f"the answer of `{self._place_id}` {what}", upstream=self._upstream)


def data_of(event: bytes) -> bytes:
    """The joined `data` lines of an event; comments and other fields are left out."""
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def error_fault(error: Any, place_id: str, upstream: Upstream) -> BackendFault:
    """The fault of an error that comes inside a stream, by its code alone."""
    code = error.get("code") if isinstance(error, dict) else None
    if code in CONTEXT_CODES:
        return Refused(f"`{place_id}`: {CONTEXT_FAULT}", code="context_length_exceeded", upstream=upstream)
    if code in FILTER_CODES:
        return Refused(f"`{place_id}` filtered the answer", code="content_filter", upstream=upstream)
    return ServerFault(f"`{place_id}` failed in the middle of its answer", upstream=upstream)


def http_fault(
    status: int,
    retry_after: str | None,
    body: bytes,
    place_id: str,
    upstream: Upstream,
    *,
    full: Full = Throttled,
) -> BackendFault:
    """The fault of an HTTP error answer. `full` is what 429 means at this server."""
    if status == 429:
        return full(f"`{place_id}` is full", upstream=upstream, retry_after_s=retry_after_s(retry_after))
    if status in (401, 403):
        return Misconfigured(
            f"`{place_id}` refused the gateway's own secret; check it on both sides", upstream=upstream
        )
    if status == 404:
        return Misconfigured(
            f"`{place_id}` does not know the path or the model; check `places.yaml`", upstream=upstream
        )
    if status == 413:
        return Refused(
            f"`{place_id}` refused the request as too large",
            code="context_length_exceeded",
            upstream=upstream,
        )
    if 400 <= status < 500 and status not in (408, 424):
        return refusal(body, place_id, upstream)
    return ServerFault(
        f"`{place_id}` failed with status {status}",
        upstream=upstream,
        retry_after_s=retry_after_s(retry_after),
    )


def refusal(body: bytes, place_id: str, upstream: Upstream) -> Refused:
    """A 400 by its code and by the name of the parameter, when that is one of ours; never by its text."""
    try:
        error = orjson.loads(body)["error"]
        code, param = error.get("code"), error.get("param")
    except SHAPE_ERRORS:
        code, param = None, None
    if code in CONTEXT_CODES:
        return Refused(f"`{place_id}`: {CONTEXT_FAULT}", code="context_length_exceeded", upstream=upstream)
    if code in FILTER_CODES:
        return Refused(f"`{place_id}` filtered the request", code="content_filter", upstream=upstream)
    if isinstance(param, str) and param in ChatRequest.model_fields:
        return Refused(f"`{place_id}` refused the request because of `{param}`", upstream=upstream)
    return Refused(f"`{place_id}` refused the request as invalid", upstream=upstream)


def retry_after_s(header: str | None) -> float | None:
    """`Retry-After` in seconds; None when it is missing, a date or nonsense."""
    try:
        seconds = float(header) if header else None
    except ValueError:
        return None
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S)
