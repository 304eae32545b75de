"""An event loop that connects only to destinations of the guard, whoever asks it to.

uvloop resolves and connects inside libuv, where Python's audit events do not see it, so that the loop's own
methods are the place to look. Each resolves, checks, and hands on the very address that was checked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from gateway.egress.guard import Egress

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None  # type: ignore[assignment]


class Guarded:
    """Mixed into a loop's class, in front of it."""

    egress: Egress

    async def getaddrinfo(self, host: Any, port: Any, **given: Any) -> list[Any]:
        self.egress.require_name(host, port)
        found: list[Any] = await super().getaddrinfo(host, port, **given)  # type: ignore[misc]
        self.egress.learn(host, (one[4][0] for one in found))
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        self.egress.require_address(*sockaddr[:2])  # a question to DNS about an address
        return await super().getnameinfo(sockaddr, flags)  # type: ignore[misc]

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, *,
        family: int = 0, proto: int = 0, flags: int = 0, sock: Any = None, ssl: Any = None,
        server_hostname: str | None = None, happy_eyeballs_delay: Any = None, interleave: Any = None,
        all_errors: bool = False, **given: Any,
    ) -> Any:  # fmt: skip
        """As the loop's own; the addresses of a host are tried one after the other."""
        connect: Any = super().create_connection  # type: ignore[misc]
        if sock is not None or host is None:
            # It was connected by `sock_connect` or by its own method: both have been checked.
            return await connect(
                protocol_factory, host, port, sock=sock, ssl=ssl, server_hostname=server_hostname, **given
            )
        found = await self.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags
        )
        name = (server_hostname or host) if ssl else server_hostname
        failures: list[OSError] = []
        for one in found:
            address, number = one[4][:2]
            self.egress.require_address(address, number)
            try:
                return await connect(
                    protocol_factory, address, number, family=one[0], ssl=ssl, server_hostname=name, **given
                )
            except OSError as error:
                failures.append(error)
        raise failures[-1] if failures else OSError(f"`{host}` has no address")

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self.egress.require_address(*address[:2])
        await super().sock_connect(sock, address)  # type: ignore[misc]

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self.egress.require_address(*address[:2])
        sent: int = await super().sock_sendto(sock, data, address)  # type: ignore[misc]
        return sent

    async def create_datagram_endpoint(
        self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **given: Any
    ) -> Any:
        """Only to one destination: an endpoint without one could send anywhere, unseen."""
        if given.get("sock") is not None or (remote_addr is None and given.get("family") != socket.AF_UNIX):
            raise self.egress.refusal(
                "datagram", "any", "is where a datagram endpoint without a peer could send"
            )
        if remote_addr is not None and given.get("family") != socket.AF_UNIX:
            found = await self.getaddrinfo(*remote_addr[:2], type=socket.SOCK_DGRAM)
            remote_addr = found[0][4][:2]
            self.egress.require_address(*remote_addr)
        make: Any = super().create_datagram_endpoint  # type: ignore[misc]
        return await make(protocol_factory, local_addr, remote_addr, **given)


def guarded_loop(egress: Egress) -> Callable[[], asyncio.AbstractEventLoop]:
    """A factory of loops that keep to the guard: uvloop's where it is installed (a request costs a fifth less
    there), else asyncio's own."""
    base: Any = uvloop.Loop if uvloop is not None else asyncio.SelectorEventLoop
    return type("GuardedLoop", (Guarded, base), {"egress": egress})
