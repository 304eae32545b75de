"""Runs an emulated region over real HTTP, in this process, on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.testing.bedrock.app import TRANSPORT_EXTENSION, ConnectionCut, Emulator, Receive, Scope, Send
from gateway.testing.bedrock.ledger import Connection

START_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Running:
    """A running region: `url` without a trailing slash."""

    url: str
    port: int
    emulator: Emulator


@dataclass(frozen=True, slots=True)
class ConnectionApp:
    """The emulator as one connection sees it: with the transport, and a cut that closes the connection."""

    emulator: Emulator
    transport: asyncio.Transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})[TRANSPORT_EXTENSION] = {"transport": self.transport}
        try:
            await self.emulator(scope, receive, send)
        except ConnectionCut:
            self.transport.close()


class LedgerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 that writes every connection into the ledger."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        emulator: Any = self.config.app
        peer = transport.get_extra_info("peername") or ("", 0)
        emulator.ledger.add(Connection(emulator.now().isoformat(), emulator.region, str(peer[0])))
        self.app = ConnectionApp(emulator, transport)


class EmulatorServer(uvicorn.Server):
    """A server that says when it is ready, and leaves the process's signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def configure(emulator: Emulator, certificate: Path | None, key: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        emulator,
        http=LedgerProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        ssl_certfile=str(certificate) if certificate else None,
        ssl_keyfile=str(key) if key else None,
    )


@asynccontextmanager
async def running_emulator(
    region: str,
    *,
    emulator: Emulator | None = None,
    port: int = 0,
    certificate: Path | None = None,
    key: Path | None = None,
) -> AsyncIterator[Running]:
    """Serves a region on 127.0.0.1 until the block ends; port 0 is a free one, a certificate makes it TLS."""
    emulator = emulator or Emulator(region)
    server = EmulatorServer(configure(emulator, certificate, key))
    listener = socket.create_server(("127.0.0.1", port))
    bound: int = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await server.ready.wait()
        scheme = "https" if certificate else "http"
        yield Running(f"{scheme}://127.0.0.1:{bound}", bound, emulator)
    finally:
        server.should_exit = True
        await serving
        listener.close()
        emulator.ledger.close()
