"""What connects outside the event loop: threads of botocore, requests, urllib, litellm, and anything unknown.

Every connection of Python's own sockets raises an audit event first, and a hook can refuse it. An event for a
look-up comes before its answer, so `socket.getaddrinfo` is wrapped too, to see which addresses a name has;
whoever goes round the wrapper has an address that nobody vouched for, and is refused when it connects.

Not seen: libraries that call the operating system themselves, and other processes. A firewall with the list
of `douane egress` sees those.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gateway.egress.guard import Egress

Check = Callable[[tuple[Any, ...]], None]


def install(egress: Egress) -> None:
    """For the whole process and for good; called once, by the command."""
    checks = checks_of(egress)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket."):  # the shortest way out for the events of every import and `open`
            check = checks.get(event)
            if check is not None:
                check(arguments)

    socket.getaddrinfo = learning(egress, socket.getaddrinfo)
    sys.addaudithook(hook)


def checks_of(egress: Egress) -> Mapping[str, Check]:
    """By the name of the audit event, whose arguments are listed with each call in Python's documentation."""

    def connects(arguments: tuple[Any, ...]) -> None:
        used, address = arguments
        if used.family in (socket.AF_INET, socket.AF_INET6):
            egress.require_address(str(address[0]), address[1])

    def sends(arguments: tuple[Any, ...]) -> None:
        used, address = arguments
        if address is not None and used.family in (socket.AF_INET, socket.AF_INET6):
            egress.require_address(str(address[0]), address[1])

    def looks_up(arguments: tuple[Any, ...]) -> None:
        egress.require_name(*arguments[:2])

    def looks_up_name(arguments: tuple[Any, ...]) -> None:
        egress.require_name(arguments[0])

    def asks_about(arguments: tuple[Any, ...]) -> None:
        host, port = (
            (arguments[0][0], arguments[0][1]) if isinstance(arguments[0], tuple) else (arguments[0], 0)
        )
        egress.require_address(str(host), port)

    return {
        "socket.connect": connects,
        "socket.sendto": sends,
        "socket.sendmsg": sends,
        "socket.getaddrinfo": looks_up,
        "socket.gethostbyname": looks_up_name,
        "socket.gethostbyaddr": asks_about,
        "socket.getnameinfo": asks_about,
    }


def learning(egress: Egress, resolve: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`socket.getaddrinfo`, of whose answers the guard takes note before anybody connects to one."""

    def getaddrinfo(host: Any, port: Any, *given: Any, **named: Any) -> list[Any]:
        egress.require_name(host, port)
        found = resolve(host, port, *given, **named)
        egress.learn(host, (one[4][0] for one in found))
        return found

    return getaddrinfo
