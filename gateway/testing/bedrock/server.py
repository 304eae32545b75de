"""Runs an emulated region over real HTTP, in this process, on loopback.

uvicorn's protocol speaks HTTP; its server, with its signal handlers and its clock, is not needed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from gateway.testing.bedrock.app import TRANSPORT_EXTENSION, ConnectionCut, Emulator, Receive, Scope, Send
from gateway.testing.bedrock.ledger import Connection


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
            await receive()  # until uvicorn knows that the connection is gone


class LedgerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 that writes every connection into the ledger."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        emulator: Any = self.config.app
        peer = transport.get_extra_info("peername") or ("", 0)
        emulator.ledger.add(Connection(emulator.now().isoformat(), emulator.region, str(peer[0])))
        self.app = ConnectionApp(emulator, transport)


def configure(emulator: Emulator, certificate: Path | None, key: Path | None) -> uvicorn.Config:
    config = uvicorn.Config(
        emulator,
        http=LedgerProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        ssl_certfile=str(certificate) if certificate else None,
        ssl_keyfile=str(key) if key else None,
    )
    config.load()
    return config


@asynccontextmanager
async def running_emulator(
    region: str,
    *,
    emulator: Emulator | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: Path | None = None,
    key: Path | None = None,
) -> AsyncIterator[Running]:
    """Serves a region on `host`, an address, until the block ends; port 0 is a free one, a certificate makes
    it TLS."""
    emulator = emulator or Emulator(region)
    config = configure(emulator, certificate, key)
    state = ServerState()
    listener = socket.create_server((host, port))
    bound: int = listener.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(
        lambda: LedgerProtocol(config=config, server_state=state, app_state={}), sock=listener, ssl=config.ssl
    )
    try:
        yield Running(f"{'https' if certificate else 'http'}://{host}:{bound}", bound, emulator)
    finally:
        server.close()
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        emulator.ledger.close()
