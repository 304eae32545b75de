"""The spans of one request, from its story. Pure but for the random ids.

Names follow OpenTelemetry's conventions for HTTP servers and for generative AI; what they have no name for is
`douane.*`. Every value is an id, a word of the bundle's, a code or a number, but for `gen_ai.input.messages`
and `gen_ai.output.messages`, which only `content` brings in.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway import __version__
from gateway.backends.base import Usage
from gateway.cache import merged
from gateway.sinks.calls import CALL
from gateway.sinks.story import Story
from gateway.sinks.timing import Timing
from gateway.sinks.traceparent import TraceIds, parse_traceparent

SCOPE: Final = InstrumentationScope("douane", __version__)
SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
OK: Final = Status(StatusCode.UNSET)
FAILED: Final = Status(StatusCode.ERROR)
CONTENT_BYTES_MAX: Final = 256 * 1024  # of one attribute; longer content is left out whole
ROUTE: Final = "/v1/chat/completions"
PROVIDERS: Final[Mapping[str, str]] = {"bedrock": "aws.bedrock", "engine": "douane.engine"}
Attributes = dict[str, Any]


def spans_of(story: Story, gateway_place: str, *, content: bool) -> tuple[ReadableSpan, ...]:
    """The request's span, then one for each step: store, plan, and each call to a backend."""
    parent = parse_traceparent(story.traceparent)
    trace = parent.trace if parent is not None else secrets.randbits(128) or 1
    # Resource(...), not Resource.create(...): that one would read the environment.
    resource = Resource(
        {"service.name": "douane", "service.version": __version__, "douane.place": gateway_place}
    )
    root = span_context(trace)

    def span(
        name: str, kind: SpanKind, context: SpanContext, above: SpanContext | None,
        times: tuple[float, float], attributes: Attributes, failed: bool,
    ) -> ReadableSpan:  # fmt: skip
        return ReadableSpan(
            name=name, context=context, parent=above, resource=resource,
            attributes={key: value for key, value in attributes.items() if value is not None},
            kind=kind, status=FAILED if failed else OK, instrumentation_scope=SCOPE,
            start_time=unix_ns(story, times[0]), end_time=unix_ns(story, times[1]),
        )  # fmt: skip

    attributes = request_attributes(story)
    if content:
        attributes |= content_attributes(story)
    spans = [
        span(
            f"POST {ROUTE}", SpanKind.SERVER, root, remote(parent), (story.started_s, story.ended_s),
            attributes, story.status >= 500 or story.outcome == "incomplete",
        )
    ]  # fmt: skip
    answered = [timing for timing in story.timings if timing.outcome == "answered"]
    for timing in story.timings:
        if timing.step != CALL:
            spans.append(
                span(timing.step, SpanKind.INTERNAL, span_context(trace), root,
                     (timing.started_s, timing.ended_s), {}, failed=False)
            )  # fmt: skip
            continue
        last = bool(answered) and timing is answered[-1]
        ended_s = story.ended_s if last and story.stream else timing.ended_s
        error = error_of(timing, story, last)
        spans.append(
            span(
                f"chat {story.facts.model}", SpanKind.CLIENT, span_context(trace), root,
                (timing.started_s, ended_s), call_attributes(timing, story, last, error), error is not None,
            )
        )  # fmt: skip
    return tuple(spans)


def span_context(trace: int) -> SpanContext:
    """A new span in this trace."""
    return SpanContext(trace, secrets.randbits(64) or 1, is_remote=False, trace_flags=SAMPLED)


def remote(parent: TraceIds | None) -> SpanContext | None:
    """The caller's span, as a parent."""
    if parent is None:
        return None
    return SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=SAMPLED)


def unix_ns(story: Story, at_s: float) -> int:
    """Wall-clock time of a moment of the monotonic clock, in nanoseconds since 1970."""
    return int(story.ended_at.timestamp() * 1e9) - int((story.ended_s - at_s) * 1e9)


def request_attributes(story: Story) -> Attributes:
    facts = story.facts
    return {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": story.status,
        "error.type": story.code,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": facts.model,
        "gen_ai.request.stream": story.stream,
        "gen_ai.response.id": story.answer_id if story.processed else None,
        **usage_attributes(story.usage),
        "douane.request": story.request,
        "douane.receipt": story.receipt,
        "douane.outcome": story.outcome,
        "douane.tenant": facts.tenant,
        "douane.key": story.key,
        "douane.zone": facts.zone,
        "douane.purpose": facts.purpose,
        "douane.labels": facts.labels.names(),
        "douane.policy.revision": story.revision,
        "douane.policy.serial": story.serial,
        "douane.policy.rules": story.rules,
        "douane.route": story.route,
        "douane.cache": story.cache,
    }


def call_attributes(timing: Timing, story: Story, last: bool, error: str | None) -> Attributes:
    assert timing.place is not None
    place, upstream = timing.place, timing.upstream
    address = urlsplit(f"//{upstream.host}") if upstream is not None else None
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDERS.get(place.kind, "openai"),
        "gen_ai.request.model": place.models.get(story.facts.model, story.facts.model),
        "gen_ai.response.time_to_first_chunk": (
            timing.ended_s - timing.started_s if story.stream and timing.outcome == "answered" else None
        ),
        **(usage_attributes(story.usage) if last else {}),
        "server.address": address.hostname if address is not None else None,
        "server.port": address.port if address is not None else None,
        "error.type": error,
        "douane.place": place.id,
        "douane.place.country": place.country,
        "douane.place.operator": place.operator,
        "douane.attempt.outcome": timing.outcome,
        "aws.request_id": upstream.request_id if upstream is not None and place.kind == "bedrock" else None,
    }


def error_of(timing: Timing, story: Story, last: bool) -> str | None:
    """What went wrong with a call; a stream that began well may still have broken."""
    if timing.outcome != "answered":
        return timing.outcome
    return story.code if last and story.outcome == "incomplete" else None


def usage_attributes(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }


def content_attributes(story: Story) -> Attributes:
    """Prompt and answer in OpenTelemetry's form; what is longer than an attribute may be is left out, and
    said to be."""
    asked = orjson.dumps([message_parts(message) for message in orjson.loads(story.body)["messages"]])
    said = orjson.dumps([message_parts(message) for message in messages_of(story)])
    if len(asked) > CONTENT_BYTES_MAX or len(said) > CONTENT_BYTES_MAX:
        return {"douane.content.omitted": "too_long"}
    return {"gen_ai.input.messages": asked.decode(), "gen_ai.output.messages": said.decode()}


def messages_of(story: Story) -> list[dict[str, Any]]:
    """The answer's messages; none where what was delivered is an error."""
    events = [orjson.loads(event) for event in story.delivered]
    answers = [event for event in events if event.get("choices")]
    if not answers:
        return []
    if story.stream:
        answers = [merged(answers, story.answer_id, story.usage or Usage(0, 0))]
    return [
        {**choice["message"], "finish_reason": choice["finish_reason"]} for choice in answers[0]["choices"]
    ]


def message_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of OpenAI's API in the form of the conventions."""
    parts: list[dict[str, Any]] = []
    if reasoning := message.get("reasoning") or message.get("reasoning_content"):
        parts.append({"type": "reasoning", "content": reasoning})
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [part.get("text") for part in content or ()]
    if message["role"] == "tool":
        text = "".join(text for text in texts if text)
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": text})
    else:
        parts += [{"type": "text", "content": text} for text in texts if text]
    for call in message.get("tool_calls") or ():
        called = call["function"]
        parts.append(
            {"type": "tool_call", "id": call["id"], "name": called["name"], "arguments": called["arguments"]}
        )
    finish = {"finish_reason": message["finish_reason"]} if message.get("finish_reason") else {}
    return {"role": message["role"], "parts": parts, **finish}
