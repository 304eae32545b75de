"""The shared HTTP client's share of the guard: it resolves and connects through these, on any event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.egress.destinations import Destinations
from gateway.egress.guard import Egress


class PinnedResolver(AbstractResolver):
    """Looks up names on the list only, and refuses an answer with an address that its place may not have."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self._egress.require_name(host, port)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        self._egress.learn(host, (str(one[4][0]) for one in found))
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]  # fmt: skip

    async def close(self) -> None:
        """Holds nothing open."""


class PinnedSockets:
    """Makes the socket of each connection, once its address has been checked: names and literals alike."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    def __call__(self, found: tuple[Any, ...]) -> socket.socket:
        family, kind, proto, _, address = found
        self._egress.require_address(str(address[0]), address[1])
        return socket.socket(family, kind, proto)


class PinnedConnector(aiohttp.TCPConnector):
    """Connections that were kept are held against the list in force before they are used again: a bundle may
    have taken their host away, or declared a `private_range` that their address is not in."""

    def __init__(self, egress: Egress, **given: Any) -> None:
        super().__init__(resolver=PinnedResolver(egress), socket_factory=PinnedSockets(egress), **given)
        self._egress = egress
        self._held_against: MutableMapping[Any, Destinations] = WeakKeyDictionary()

    async def connect(self, req: Any, *rest: Any, **given: Any) -> Any:
        """As aiohttp's own; closes what may not be used any more, and connects anew."""
        while True:
            connection = await super().connect(req, *rest, **given)
            kept, known = connection.protocol, self._egress.known
            before = self._held_against.get(kept)
            if before is known:
                return connection
            host, port = req.connection_key.host, req.connection_key.port
            peer = connection.transport.get_extra_info("peername") if connection.transport else None
            if peer is not None and self._egress.is_peer(host, port, peer[0]):
                self._held_against[kept] = known
                return connection
            connection.close()
            if before is None:  # it is new, so another one would be no better
                raise self._egress.refusal(
                    "address", f"{host}:{port}", "is not a destination of this gateway"
                )
