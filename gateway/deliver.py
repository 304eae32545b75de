"""Handing an answer to the client: whole, as a stream, or from the cache; each with its receipt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import orjson

from gateway import errors
from gateway.audit.chain import time_text
from gateway.backends.base import Answer, AnswerStream, BackendFault, Upstream, Usage
from gateway.backends.openai_wire import SHAPE_ERRORS
from gateway.begin import record_begin
from gateway.cache import CachedAnswer, complete_stream, joined, seal_entry
from gateway.conclusion import answer_headers, conclude, whole_answer
from gateway.context import GatewayContext
from gateway.conversation import answer_mark
from gateway.hangup import Hangup
from gateway.ingress import Headers, Reply, sse_event
from gateway.places import Action, Place
from gateway.receipts.assemble import Ending
from gateway.receipts.delivery import stream_comment
from gateway.receipts.digest import StreamDigest
from gateway.receipts.receipt import AnswerClaim, CacheOrigin
from gateway.residency import authorised_now, cached_rules, permitted_now
from gateway.routing.attempts import Reached, Tried, count_fault, release
from gateway.store.base import Put
from gateway.trail import Trail

DONE = sse_event(b"[DONE]")


async def deliver_answer(reached: Reached, trail: Trail, hangup: Hangup, context: GatewayContext) -> Reply:
    """A whole answer: its bytes are what the receipt's digest covers."""
    hangup.disarm()
    assert isinstance(reached.answer, Answer)
    answer, place = reached.answer, reached.attempt.place
    body = orjson.dumps(answer.body)
    mark_answer(answer.body["choices"][0]["message"], trail, context)
    kept = cached_answer(
        place, answer.upstream, answer.body["id"], answer.usage, (body,), False, trail, context
    )
    trail.delivered = [body]
    ending = Ending("answered", 200, whole_answer(body), usage=answer.usage)
    receipt = await conclude(ending, trail, context, lambda: cache_put(kept, trail, context))
    return Reply(
        200, [*answer_headers(receipt, trail), *place_headers(place, answer.upstream.emulated)], body
    )


def deliver_stream(reached: Reached, trail: Trail, hangup: Hangup, context: GatewayContext) -> Reply:
    """A streamed answer: the headers say where it is made, the receipt follows before `[DONE]`."""
    assert not isinstance(reached.answer, Answer)
    place, stream = reached.attempt.place, reached.answer
    headers = [*answer_headers(None, trail), *place_headers(place, stream.upstream.emulated)]
    return Reply(200, headers, stream_answer(reached, stream, trail, hangup, context))


async def stream_answer(
    reached: Reached, stream: AnswerStream, trail: Trail, hangup: Hangup, context: GatewayContext
) -> AsyncGenerator[bytes, None]:
    """The events of an answer as they come; whatever ends it, the end is recorded and signed."""
    assert trail.chat is not None
    place = reached.attempt.place
    wants_usage, told = trail.chat.wants_usage_chunk, context.sinks.wants_answer(trail)
    digest, parts, usage = StreamDigest(), list[bytes](), None
    failure: errors.DouaneError | None = None
    try:
        async for batch in stream:
            sent = bytearray()
            for chunk in batch:
                if chunk.usage is not None:
                    usage = chunk.usage
                    if not wants_usage:
                        continue
                else:
                    parts.append(chunk.data)
                digest.add(chunk.data)
                if told:
                    trail.delivered.append(chunk.data)
                sent += sse_event(chunk.data)
            if sent:
                yield bytes(sent)
    except BackendFault as fault:
        count_fault(reached.attempt, fault, context.health, context.clock)
        trail.tried.append(Tried(place, fault.kind, fault.upstream, reached.kind))
        failure = errors.StreamBroken(
            "the backend's answer ended before it was complete; what arrived is not the whole answer, "
            "send the request again"
        )
    except (asyncio.CancelledError, GeneratorExit):
        hangup.disarm()
        code = "client_gone" if hangup.happened else "cut_off"
        mark_answer(parts, trail, context)
        await conclude_unheard(Ending("incomplete", 200, stream_claim(digest), code, usage), trail, context)
        raise
    except Exception:
        context.sinks.log.event("bug", trail, context, exc_info=True)
        failure = errors.bug(trail.incoming.request_id)
    finally:
        hangup.disarm()
        release(reached.attempt, context.health)
        await stream.aclose()
    try:
        mark_answer(parts, trail, context)
        if failure is None and usage is not None:
            kept = cached_answer(
                place, stream.upstream, trail.answer_id, usage, tuple(parts), True, trail, context
            )
            ending = Ending("answered", 200, stream_claim(digest), usage=usage)
            receipt = await conclude(ending, trail, context, lambda: cache_put(kept, trail, context))
            yield receipt_comment(receipt) + DONE
            return
        assert failure is not None
        event = orjson.dumps(failure.body())
        digest.add(event)
        if told:
            trail.delivered.append(event)
        ending = Ending("incomplete", 200, stream_claim(digest), failure.code, usage)
        receipt = await conclude(ending, trail, context)
        yield sse_event(event) + receipt_comment(receipt)
    except errors.RecordUnavailable as unavailable:
        yield sse_event(orjson.dumps(unavailable.body()))
    except Exception:
        context.sinks.log.event("bug", trail, context, exc_info=True)
        bug = errors.bug(trail.incoming.request_id)
        ending = Ending("incomplete", 200, stream_claim(digest), bug.code, usage)
        await conclude_unheard(ending, trail, context)
        yield sse_event(orjson.dumps(bug.body()))


async def conclude_unheard(ending: Ending, trail: Trail, context: GatewayContext) -> None:
    """Concludes where nobody but the log is left to hear that it could not be recorded."""
    try:
        await conclude(ending, trail, context)
    except errors.RecordUnavailable:
        context.sinks.log.event("audit_unavailable", trail, context)


async def deliver_cached(
    cached: CachedAnswer, trail: Trail, hangup: Hangup, context: GatewayContext
) -> Reply:
    """A cached answer, plain or replayed as a stream; recorded and signed like any other."""
    assert trail.chat is not None
    trail.rules = cached_rules(cached, trail, context)
    await hangup.after(record_begin(trail, context))
    if not authorised_now(cached, trail, context):
        raise errors.PermittedBackendUnavailable(
            "the policy changed while this request was under way: its cached answer may not be told now; "
            "send it again",
            retry_after_s=1,
        )
    hangup.disarm()
    origin = cached.origin
    headers: Headers = place_headers(trail.bundle.places[origin.place], origin.emulated)
    if not trail.chat.wants_stream:
        body = cached.body(trail.answer_id)
        trail.delivered = [body]
        ending = Ending("cached", 200, whole_answer(body), usage=cached.usage, origin=origin)
        receipt = await conclude(ending, trail, context)
        return Reply(200, [*answer_headers(receipt, trail), *headers], body)
    digest, sent = StreamDigest(), bytearray()
    for chunk in cached.chunks(trail.answer_id):
        if chunk.usage is None or trail.chat.wants_usage_chunk:
            digest.add(chunk.data)
            trail.delivered.append(chunk.data)
            sent += sse_event(chunk.data)
    ending = Ending("cached", 200, stream_claim(digest), usage=cached.usage, origin=origin)
    receipt = await conclude(ending, trail, context)
    return Reply(
        200, [*answer_headers(None, trail), *headers], replay(bytes(sent) + receipt_comment(receipt) + DONE)
    )


async def replay(events: bytes) -> AsyncGenerator[bytes, None]:
    yield events


def cached_answer(
    place: Place, upstream: Upstream, answer_id: str, usage: Usage, parts: tuple[bytes, ...], streamed: bool,
    trail: Trail, context: GatewayContext,
) -> CachedAnswer | None:  # fmt: skip
    """What may be kept of this answer; None when nothing may, or when it has no reason why it finished."""
    if trail.cache_key is None or trail.facts is None or not complete_stream(parts):
        return None
    origin = CacheOrigin(
        place=place.id,
        country=place.country,
        operator=place.operator,
        emulated=upstream.emulated,
        receipt=trail.receipt_id,
        issued_at=time_text(context.clock.now()),
        labels=trail.facts.labels.names(),
    )
    return CachedAnswer(origin, answer_id, usage, streamed, parts)


def cache_put(cached: CachedAnswer | None, trail: Trail, context: GatewayContext) -> Put | None:
    if cached is None or trail.cache_key is None or trail.caller is None or context.store_place is None:
        return None
    if not permitted_now(trail, context).allows(Action.CACHE, context.store_place):
        return None
    try:
        sealed = seal_entry(cached, trail.cache_key, trail.caller.tenant, context.tenant_keys)
    except (errors.TenantErased, errors.KeysUnavailable):
        return None
    return Put(trail.cache_key, sealed, context.settings.cache_ttl_s) if sealed is not None else None


def mark_answer(told: Mapping[str, Any] | Sequence[bytes], trail: Trail, context: GatewayContext) -> None:
    """Marks the answer as the client has it, a message or the events of a stream, as far as it was told:
    whoever sends it again brings its labels along."""
    assert trail.caller is not None
    try:
        message = (
            told if isinstance(told, Mapping) else joined(orjson.loads(b"[%b]" % b",".join(told))).message
        )
        trail.answer_mark = answer_mark(
            message, trail.caller.tenant, context.tenant_keys.commit, trail.bundle.marked_from_bytes
        )
    except (errors.TenantErased, errors.KeysUnavailable):
        trail.answer_mark = None  # destroyed while it was answered: nothing finds it again
    except SHAPE_ERRORS:  # relayed as it came: no request can hold such a message
        context.sinks.log.event("unmarked_answer", trail, context)


def place_headers(place: Place, emulated: bool) -> Headers:
    headers: Headers = [(b"x-douane-backend", place.id.encode()), (b"x-douane-zone", place.country.encode())]
    if emulated:
        headers.append((b"x-douane-emulated", b"true"))
    return headers


def receipt_comment(receipt: str | None) -> bytes:
    return stream_comment(receipt) if receipt is not None else b""


def stream_claim(digest: StreamDigest) -> AnswerClaim:
    return AnswerClaim("stream", digest.hexdigest(), digest.size)
