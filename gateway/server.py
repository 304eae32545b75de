"""The HTTP server: uvicorn, with signals and a collector of the gateway's own."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from gateway.protocol import bounded_protocol
from gateway.secret_files import SecretFileInvalid, read_secret_file
from gateway.settings import Settings, SettingsInvalid

COLLECT_AFTER = 20_000  # container objects more than were let go, before the young ones are looked at


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
    assert settings.tls_key is not None
    try:
        read_secret_file(settings.tls_key)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except SecretFileInvalid as error:
        raise SettingsInvalid((str(error),)) from None
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
