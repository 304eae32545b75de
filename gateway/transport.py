"""One packet for an answer: its head waits for the body that follows at once."""

from __future__ import annotations

import asyncio
from typing import Any


class HeadWithBody:
    """A transport that sends the first thing written after `expect_head` together with what is written next.

    A server writes an answer's head and body one after the other, and each write is a system call and a
    packet of its own, among the dearest steps of a short request. A head whose body does not follow in the
    same turn of the event loop is sent without it. Everything else is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._holds_next = False
        self._held = b""

    def expect_head(self) -> None:
        """The next write is the head of an answer."""
        self._holds_next = True

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        elif self._holds_next:
            self._holds_next, self._held = False, data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Sends what is held."""
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
