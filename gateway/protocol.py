"""HTTP as uvicorn reads it, with bounds that it does not have itself, and with less work for each request."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.arrival import EXTENSION, Arrival
from gateway.transport import HeadWithBody


def bounded_protocol(limit_bytes: int, timeout_s: float) -> type[asyncio.Protocol]:
    """A uvicorn protocol that closes connections whose request head is too large or too slow, and tells of
    each request's `Arrival`.

    The time starts when a connection opens, and again with the first byte after an answer, so that an idle
    keep-alive connection is uvicorn's to close and a slow head is closed here.
    """

    class BoundedHttpProtocol(HttpToolsProtocol):
        head_bytes = 0
        fields_bytes = 0
        refusal = b""  # the last answer of a connection that asks for no more
        head_timer: asyncio.TimerHandle | None = None
        head_open = True
        head_begun = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.answers = HeadWithBody(transport, self.loop)
            self.unanswered: deque[Arrival] = deque()
            super().connection_made(cast(asyncio.Transport, self.answers))
            self.await_head()

        def await_head(self) -> None:
            self.head_timer = self.loop.call_later(timeout_s, self.refuse_head, 408, "Request Timeout")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.head_open = self.head_begun = True
            self.fields_bytes = 0
            self.arrival = Arrival()
            self.scope["extensions"] = {EXTENSION: self.arrival}  # type: ignore[dict-item]

        def on_url(self, url: bytes) -> None:
            self.fields_bytes += len(url)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self.head_open:
                return  # a trailer: what comes after a body is no part of its head (RFC 9110, 6.5.1)
            self.fields_bytes += len(name) + len(value)
            if self.fields_bytes <= limit_bytes:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self.refusal:
                return
            self.stop_timer()
            self.head_open = self.head_begun = False
            self.head_bytes = 0
            # A head that arrives together with its end is counted here; one that drags on, in data_received.
            if self.fields_bytes > limit_bytes:
                self.refuse_head(431, "Request Header Fields Too Large")
            else:
                self.answers.expect_head()
                self.unanswered.append(self.arrival)
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self.refusal:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self.refusal:
                super().on_message_complete()
                self.arrival.whole = self.head_open = True

        def on_response_complete(self) -> None:
            self.unanswered.popleft()
            super().on_response_complete()
            self.refuse_after_answers()

        def data_received(self, data: bytes) -> None:
            if self.refusal:
                return
            if self.head_open:
                self.head_bytes += len(data)
                before = self.head_bytes
                super().data_received(data)
                if self.head_open and self.head_bytes == before and before > limit_bytes:
                    self.refuse_head(431, "Request Header Fields Too Large")
            else:
                super().data_received(data)
            # Most heads come whole with their first byte, and need no timer: it costs more than reading them.
            if self.head_begun and self.head_timer is None and not self.refusal:
                self.await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            super().connection_lost(exc)
            for arrival in self.unanswered:
                arrival.lose()

        def stop_timer(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def refuse_head(self, status: int, reason: str) -> None:
            self.stop_timer()
            self.refusal = (
                f"HTTP/1.1 {status} {reason}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
            )
            self.refuse_after_answers()

        def send_400_response(self, msg: str) -> None:
            self.refuse_head(400, "Bad Request")

        def refuse_after_answers(self) -> None:
            """Refuses in its turn: whoever sent another head early must not read of it inside an answer."""
            answering = any(arrival.whole for arrival in self.unanswered)
            if self.refusal and not answering and not self.transport.is_closing():
                self.transport.write(self.refusal)
                self.transport.close()

    return BoundedHttpProtocol
