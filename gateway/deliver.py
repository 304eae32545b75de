"""Handing an answer to the client: whole, as a stream, or from the cache; each with its receipt."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable

import orjson

from gateway import errors
from gateway.backends.base import Answer, AnswerStream, BackendFault, Chunk, Usage
from gateway.begin import record_begin
from gateway.cache import CachedAnswer, cache_put
from gateway.conclusion import Ending, answer_headers, conclude
from gateway.context import GatewayContext
from gateway.hangup import Hangup
from gateway.ingress import Headers, Reply
from gateway.places import Place
from gateway.routing.attempts import Reached, Tried, count_fault, release
from gateway.trail import Trail

DONE = b"data: [DONE]\n\n"


async def deliver_answer(reached: Reached, trail: Trail, hangup: Hangup, context: GatewayContext) -> Reply:
    """A whole answer: its bytes are what the receipt's digest covers."""
    hangup.disarm()
    assert isinstance(reached.answer, Answer)
    answer, place = reached.answer, reached.attempt.place
    body = orjson.dumps(answer.body)
    put = cache_put(CachedAnswer.of_body(answer.body, answer.usage, place, answer.upstream, trail), trail, context)
    ending = Ending("answered", 200, hashlib.sha256(body).hexdigest(), usage=answer.usage, puts=put)
    receipt = await conclude(ending, trail, context)
    return Reply(200, [*answer_headers(receipt, trail), *place_headers(place, answer.upstream.emulated)], body)


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
    digest, kept, usage = hashlib.sha256(), list[bytes](), None
    wants_usage = trail.chat.wants_usage_chunk
    failure: errors.DouaneError | None = None
    cancelled = False
    try:
        async for batch in stream:
            sent = bytearray()
            for chunk in batch:
                kept.append(chunk.data)
                if chunk.usage is not None:
                    usage = chunk.usage
                    if not wants_usage:
                        continue
                digest.update(chunk.data)
                sent += b"data: %b\n\n" % chunk.data
            if sent:
                yield bytes(sent)
    except BackendFault as fault:
        count_fault(reached.attempt, fault, context.health, context.clock)
        trail.tried.append(Tried(reached.attempt.place, fault.kind, fault.upstream))
        failure = errors.StreamBroken(
            "the backend's answer ended before it was complete; what arrived is not the whole answer, send the "
            "request again"
        )
    except (asyncio.CancelledError, GeneratorExit):
        cancelled = True
        raise
    finally:
        hangup.disarm()
        release(reached.attempt, context.health)
        await stream.aclose()
        if cancelled:
            await conclude(Ending("cancelled", 200, digest.hexdigest(), usage=usage), trail, context)
    if failure is not None:
        ending = Ending("incomplete", 200, digest.hexdigest(), failure.code, usage)
        receipt = await conclude(ending, trail, context)
        yield b"data: %b\n\n" % orjson.dumps(failure.body()) + receipt_comment(receipt, trail)
        return
    assert usage is not None
    entry = CachedAnswer.of_chunks(kept, usage, reached.attempt.place, stream.upstream, trail)
    ending = Ending("answered", 200, digest.hexdigest(), usage=usage, puts=cache_put(entry, trail, context))
    receipt = await conclude(ending, trail, context)
    yield receipt_comment(receipt, trail) + DONE


async def deliver_cached(cached: CachedAnswer, trail: Trail, hangup: Hangup, context: GatewayContext) -> Reply:
    """A cached answer, plain or replayed as a stream; recorded and signed like any other."""
    assert trail.chat is not None
    await record_begin(trail, context)
    hangup.disarm()
    place = trail.bundle.places[cached.place]
    headers = place_headers(place, cached.emulated)
    if not trail.chat.wants_stream:
        body = orjson.dumps(cached.body(trail.incoming.request_id))
        receipt = await conclude(cached_ending(body, cached.usage), trail, context)
        return Reply(200, [*answer_headers(receipt, trail), *headers], body)
    chunks = [
        chunk.data
        for chunk in cached.chunks(trail.incoming.request_id)
        if chunk.usage is None or trail.chat.wants_usage_chunk
    ]
    receipt = await conclude(cached_ending(b"".join(chunks), cached.usage), trail, context)
    pieces = [*(b"data: %b\n\n" % data for data in chunks), receipt_comment(receipt, trail), DONE]
    return Reply(200, [*answer_headers(None, trail), *headers], replay(pieces))


def cached_ending(delivered: bytes, usage: Usage) -> Ending:
    return Ending("cached", 200, hashlib.sha256(delivered).hexdigest(), usage=usage)


async def replay(pieces: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    yield b"".join(pieces)


def place_headers(place: Place, emulated: bool) -> Headers:
    headers: Headers = [(b"x-douane-backend", place.id.encode()), (b"x-douane-zone", place.country.encode())]
    if emulated:
        headers.append((b"x-douane-emulated", b"true"))
    return headers


def receipt_comment(receipt: str | None, trail: Trail) -> bytes:
    """The receipt as an SSE comment, which clients that do not know of it skip."""
    return b": x-douane-receipt %b\n\n" % (receipt or trail.receipt_id).encode()


