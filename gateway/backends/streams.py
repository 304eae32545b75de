"""A streamed answer over HTTP: bytes in, batches of chunks out, one batch per network read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

import aiohttp

from gateway.backends.base import BackendFault, Broken, Chunk, Upstream
from gateway.backends.http import transport_fault

# How long the end of a body may take after the answer is complete, before the connection is dropped
# instead of kept for the next call.
END_GRACE_S: Final = 0.5


class Decoder(Protocol):
    """Understands one kind of stream. Both calls raise BackendFault where the stream breaks."""

    @property
    def complete(self) -> bool:
        """Whether everything that makes an answer complete has arrived."""
        ...

    def feed(self, data: bytes) -> tuple[Chunk, ...]: ...


class HttpStream:
    """An `AnswerStream` over an aiohttp response."""

    def __init__(
        self, response: aiohttp.ClientResponse, decoder: Decoder, place_id: str, upstream: Upstream
    ) -> None:
        self._response = response
        self._decoder = decoder
        self._place_id = place_id
        self._upstream = upstream
        self._first: tuple[Chunk, ...] = ()
        self._ended = False

    @property
    def upstream(self) -> Upstream:
        return self._upstream

    async def wait_for_first(self) -> None:
        """Waits for the first batch and keeps it. Raises BackendFault, with the connection closed."""
        try:
            self._first = await self._read()
        except (BackendFault, asyncio.CancelledError):
            self._response.close()
            raise

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
        if not self._ended:
            self._ended = True
            self._response.close()

    async def _read(self) -> tuple[Chunk, ...]:
        """The next batch with at least one chunk; empty when the answer is complete."""
        while not self._decoder.complete:
            data = await self._receive()
            if not data:
                raise Broken(
                    f"the answer of `{self._place_id}` ended before it was complete", upstream=self._upstream
                )
            if batch := self._decoder.feed(data):
                return batch
        return ()

    async def _receive(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise transport_fault(error, self._place_id, self._upstream) from None

    async def _end(self) -> None:
        """Reads to the end of the body, so that the connection can serve again."""
        self._ended = True
        try:
            async with asyncio.timeout(END_GRACE_S):
                while not self._response.content.at_eof():
                    if await self._response.content.readany():
                        break  # bytes after the end: such a connection is not used again
        except (aiohttp.ClientError, OSError, TimeoutError):
            # The answer is complete; only the connection is lost.
            self._response.close()
            return
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
