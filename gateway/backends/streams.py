"""A streamed answer over HTTP: bytes in, batches of chunks out, one batch per network read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

import aiohttp

from gateway.backends.base import BackendFault, Broken, Chunk, TimedOut, Upstream
from gateway.backends.http import transport_fault

# How long the end of a body may take after the answer is complete, before the connection is dropped
# instead of kept for the next call.
END_GRACE_S: Final = 0.5


class Decoder(Protocol):
    """Understands one kind of stream. `feed` raises BackendFault where the stream breaks."""

    @property
    def complete(self) -> bool:
        """Whether everything that makes an answer complete has arrived."""
        ...

    def feed(self, data: bytes) -> tuple[Chunk, ...]: ...


class HttpStream:
    """An `AnswerStream` over an aiohttp response.

    After the first chunk, a server that is silent for `idle_timeout_s` while it is being read is given up.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        decoder: Decoder,
        place_id: str,
        upstream: Upstream,
        idle_timeout_s: float,
    ) -> None:
        self._response = response
        self._decoder = decoder
        self._place_id = place_id
        self._upstream = upstream
        self._first: tuple[Chunk, ...] = ()
        self._ended = False
        self._silence = Silence(response, idle_timeout_s)

    @property
    def upstream(self) -> Upstream:
        return self._upstream

    async def wait_for_first(self) -> None:
        """Waits for the first batch and keeps it. Raises BackendFault, with the connection closed."""
        try:
            self._first = await self._read()
        except (BackendFault, asyncio.CancelledError):
            await self.aclose()
            raise
        self._silence.watch()

    def __aiter__(self) -> AsyncIterator[tuple[Chunk, ...]]:
        return self

    async def __anext__(self) -> tuple[Chunk, ...]:
        if self._first:
            batch, self._first = self._first, ()
            return batch
        if self._ended:
            raise StopAsyncIteration
        try:
            batch = await self._read()
        except (BackendFault, asyncio.CancelledError):
            await self.aclose()
            raise
        if not batch:
            await self._end()
            raise StopAsyncIteration
        return batch

    async def aclose(self) -> None:
        """Closes the connection at once, unless the answer was read to its end."""
        self._silence.stop()
        self._first = ()
        if not self._ended:
            self._ended = True
            self._response.close()

    async def _read(self) -> tuple[Chunk, ...]:
        """The next batch with at least one chunk; empty when the answer is complete."""
        while not self._decoder.complete:
            data = await self._receive()
            if not data:
                text = f"the answer of `{self._place_id}` ended before it was complete"
                raise Broken(text, upstream=self._upstream)
            if batch := self._decoder.feed(data):
                return batch
        return ()

    async def _receive(self) -> bytes:
        self._silence.begin()
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if self._silence.noticed:
                text = f"`{self._place_id}` fell silent in the middle of its answer"
                raise TimedOut(text, upstream=self._upstream) from None
            raise transport_fault(error, self._place_id, self._upstream) from None
        finally:
            self._silence.end()

    async def _end(self) -> None:
        """Reads to the end of the body, so that the connection can serve again."""
        self._ended = True
        self._silence.stop()
        content = self._response.content
        try:
            async with asyncio.timeout(END_GRACE_S):
                while not content.at_eof() and not await content.readany():
                    pass
        except (aiohttp.ClientError, OSError, TimeoutError):
            # The answer is complete; only the connection is lost.
            self._response.close()
            return
        if content.at_eof():
            self._response.release()
        else:
            self._response.close()  # bytes after the end: such a connection is not used again


class Silence:
    """Closes a response when one read of it takes too long.

    One timer for the whole stream: aiohttp's own bound on reads sets a new timer for every piece of data.
    """

    def __init__(self, response: aiohttp.ClientResponse, limit_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._limit_s = limit_s
        self._reading_since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.noticed = False

    def begin(self) -> None:
        self._reading_since_s = self._loop.time()

    def end(self) -> None:
        self._reading_since_s = None

    def watch(self) -> None:
        self._timer = self._loop.call_later(self._limit_s, self._check)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        since = self._reading_since_s
        silent_s = 0.0 if since is None else self._loop.time() - since
        if silent_s >= self._limit_s:
            self.noticed = True
            self._response.close()
        else:
            self._timer = self._loop.call_later(self._limit_s - silent_s, self._check)
