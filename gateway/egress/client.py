"""The shared HTTP client's share of the guard: it resolves and connects through these, on any event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

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
