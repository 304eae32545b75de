"""The HTTP server: uvicorn, with bounds on a request's head that it does not have itself."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.settings import Settings, SettingsInvalid
from gateway.transport import HeadWithBody

COLLECT_AFTER = 20_000  # container objects more than were let go, before the young ones are looked at


def bounded_protocol(limit_bytes: int, timeout_s: float) -> type[asyncio.Protocol]:
    """A uvicorn protocol that closes connections whose request head is too large or too slow.

    The time starts when a connection opens, and again with the first byte after an answer, so that an idle
    keep-alive connection is uvicorn's to close and a slow head is closed here.
    """

    class BoundedHttpProtocol(HttpToolsProtocol):
        head_bytes = 0
        fields_bytes = 0
        refused = False
        head_timer: asyncio.TimerHandle | None = None
        head_open = True
        head_begun = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.answers = HeadWithBody(transport, self.loop)
            super().connection_made(cast(asyncio.Transport, self.answers))
            self.await_head()

        def await_head(self) -> None:
            self.head_timer = self.loop.call_later(timeout_s, self.refuse_head, 408, "Request Timeout")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.head_open = self.head_begun = True
            self.fields_bytes = 0

        def on_url(self, url: bytes) -> None:
            self.fields_bytes += len(url)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self.fields_bytes += len(name) + len(value)
            if self.fields_bytes <= limit_bytes:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self.stop_timer()
            self.head_open = self.head_begun = False
            self.head_bytes = 0
            # A head that arrives together with its end is counted here; one that drags on, in data_received.
            if self.fields_bytes > limit_bytes:
                self.refuse_head(431, "Request Header Fields Too Large")
            else:
                self.answers.expect_head()
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self.refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self.refused:
                super().on_message_complete()
                self.head_open = True

        def data_received(self, data: bytes) -> None:
            if self.head_open:
                self.head_bytes += len(data)
                before = self.head_bytes
                super().data_received(data)
                if self.head_open and self.head_bytes == before and before > limit_bytes:
                    self.refuse_head(431, "Request Header Fields Too Large")
            else:
                super().data_received(data)
            # Most heads come whole with their first byte, and need no timer: it costs more than reading them.
            if self.head_begun and self.head_timer is None and not self.refused:
                self.await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            super().connection_lost(exc)

        def stop_timer(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def refuse_head(self, status: int, reason: str) -> None:
            self.stop_timer()
            self.refused = True
            if not self.transport.is_closing():
                self.transport.write(
                    f"HTTP/1.1 {status} {reason}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
                )
                self.transport.close()

    return BoundedHttpProtocol


def bound_socket(settings: Settings) -> socket.socket:
    """A socket on the configured address, not listening yet. Raises `SettingsInvalid`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        address, reason = f"{settings.host}:{settings.port}", (error.strerror or "no such host").lower()
        raise SettingsInvalid(
            (f"cannot listen on `{address}`: {reason}; set DOUANE_PORT or DOUANE_HOST",)
        ) from None
    return bound


def require_certificate(settings: Settings) -> None:
    """Raises `SettingsInvalid` when the certificate and its key cannot serve TLS together."""
    if settings.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except ssl.SSLError:
        reason = "they are no certificate and key that fit each other"
    except OSError as error:
        reason = (error.strerror or "they cannot be read").lower()
    else:
        return
    raise SettingsInvalid(
        (
            f"the certificate `{settings.tls_cert}` and its key `{settings.tls_key}` cannot be used: "
            f"{reason}; name PEM files with DOUANE_TLS_CERT and DOUANE_TLS_KEY",
        )
    )


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings.header_limit_bytes, settings.header_timeout_s),
        loop="none",  # the server runs on the loop that `douane serve` has made
        lifespan="off",
        ws="none",  # nothing here is a websocket
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.grace_s),
        h11_max_incomplete_event_size=settings.header_limit_bytes,
    )


def collect_rarely() -> None:
    """Leaves what has been loaded by now to itself, and looks for cycles in what requests leave, which is
    nearly none, once in many requests: else the collector is a part of every one, and the longest of some."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


class GatewayServer(uvicorn.Server):
    """A uvicorn server that says when it listens, and whose signals are the gateway's own.

    The first SIGINT or SIGTERM turns readiness off and lets answers finish within the grace time; a second
    one ends them. uvicorn would raise the signal again before the gateway's seams are closed.
    """

    def __init__(
        self, config: uvicorn.Config, stop: Callable[[], None], started: Callable[[int], None]
    ) -> None:
        super().__init__(config)
        self._stop = stop
        self._started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _asked_to_stop(self) -> None:
        self._stop()
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def stop_when(self, event: asyncio.Event) -> None:
        """Stops as a first signal would, once `event` is set."""
        await event.wait()
        self._asked_to_stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        collect_rarely()
        if self.started:
            self._started(self.servers[0].sockets[0].getsockname()[1])
