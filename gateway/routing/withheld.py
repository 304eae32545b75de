"""Whether a content filter kept an answer back, before any of it was delivered.

A server says so by an error (`Refused` with the code `content_filter`), which needs nothing from here, or by
an answer whose `finish_reason` is `content_filter`: so Bedrock, where it stands for the stop reasons
`guardrail_intervened` and `content_filtered`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import orjson

from gateway.backends.base import Answer, AnswerStream, BackendFault, Chunk, TimedOut, Upstream, Usage
from gateway.routing.attempt import Attempt
from gateway.routing.tried import Withheld

FILTERED: Final = "content_filter"


def require_answer(answer: Answer, attempt: Attempt) -> None:
    """Raises `Withheld` for a plain answer that a filter cut: nothing of it has been delivered."""
    if any(choice.get("finish_reason") == FILTERED for choice in answer.body["choices"]):
        raise Withheld(attempt.place.id, answer.upstream, answer.usage)


async def require_stream(stream: AnswerStream, attempt: Attempt) -> AnswerStream:
    """The stream, its first content seen and kept. Raises `Withheld` where a filter ends it before that.

    Raises `BackendFault` where it breaks before that, `TimedOut` where no content comes in the time of a
    first byte; closed in each case.
    """
    seen: list[tuple[Chunk, ...]] = []
    batches = aiter(stream)
    try:
        async with asyncio.timeout(attempt.first_byte_timeout_s):
            async for batch in batches:
                seen.append(batch)
                for chunk in batch:
                    if chunk.finish_reason == FILTERED:
                        raise Withheld(attempt.place.id, stream.upstream, await usage_at_end(batch, batches))
                    if chunk.finish_reason is not None or has_content(chunk):
                        return Begun(seen, batches, stream)
    except TimeoutError:
        await stream.aclose()
        text = f"`{attempt.place.id}` sent no content for {attempt.first_byte_timeout_s:g} s"
        raise TimedOut(text, upstream=stream.upstream) from None
    except BaseException:
        await stream.aclose()
        raise
    return Begun(seen, batches, stream)


def has_content(chunk: Chunk) -> bool:
    """Whether the client would see anything of the answer: more than the role."""
    choices = orjson.loads(chunk.data).get("choices") or ()
    return any(value for choice in choices for name, value in choice["delta"].items() if name != "role")


async def usage_at_end(batch: tuple[Chunk, ...], batches: AsyncIterator[tuple[Chunk, ...]]) -> Usage | None:
    """What a stream whose answer is over says that it used; None where it breaks before it does."""
    try:
        while True:
            for chunk in batch:
                if chunk.usage is not None:
                    return chunk.usage
            batch = await anext(batches)
    except (BackendFault, StopAsyncIteration):
        return None


class Begun:
    """A stream of which some batches have been read already; they come first."""

    def __init__(
        self, seen: list[tuple[Chunk, ...]], batches: AsyncIterator[tuple[Chunk, ...]], stream: AnswerStream
    ) -> None:
        self._seen = seen
        self._batches = batches
        self._stream = stream

    @property
    def upstream(self) -> Upstream:
        return self._stream.upstream

    def __aiter__(self) -> AsyncIterator[tuple[Chunk, ...]]:
        return self

    async def __anext__(self) -> tuple[Chunk, ...]:
        return self._seen.pop(0) if self._seen else await anext(self._batches)

    async def aclose(self) -> None:
        await self._stream.aclose()
