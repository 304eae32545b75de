"""The guard: holds the list of destinations, and decides about names, answers of DNS, and addresses.

A connection is permitted to an address that is itself on the list, or that DNS gave not long ago for a name
on the list, so that what is connected to is what was checked. An answer of DNS is refused whole when one of
its addresses is outside the private range that its place declares, or is none that a single host has.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway import logs
from gateway.egress.destinations import Destination, Destinations, canonical

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
ANSWER_KEPT_S: Final = 300.0  # longer than any client here keeps an answer of DNS (aiohttp: 60 s)
ANSWERS_MAX: Final = 4096
LOGGED_AGAIN_S: Final = 60.0
LOGGED_MAX: Final = 256
SHOWN_MAX: Final = 80
LOCALHOST: Final = "localhost"
HOW_TO_ALLOW: Final = (
    "see `douane egress` for what this gateway may connect to, and docs/egress.md for how that follows"
)


class EgressRefused(PermissionError):
    """A connection, or a look-up of a name, that is not on the list. Names the destination, never content."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPERM, text)
        self.text = text

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True, eq=False)
class Egress:
    """Safe to use from any thread. Nothing is permitted before `put_in_force`.

    `monotonic_s` is the clock for how long an answer of DNS holds.
    """

    monotonic_s: Callable[[], float] = time.monotonic
    refused: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("name", "answer", "address", "datagram"), 0)
    )
    _known: Destinations = field(default_factory=lambda: Destinations.of(()))
    # Address in its usual form -> host that it was an answer for -> when that was.
    _answers: dict[str, dict[str, float]] = field(default_factory=dict)
    _logged: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def known(self) -> Destinations:
        return self._known

    def put_in_force(self, known: Destinations) -> None:
        """From here on these destinations are permitted, and no others."""
        self._known = known

    # Before a name is looked up: a name in a question to DNS is itself something that leaves.

    def require_name(self, host: str | bytes | None, port: int | str | None = None) -> None:
        """Raises `EgressRefused` for a name that is on no list, or not with this port. Addresses pass."""
        name = text_of(host)
        if name is None or address_of(name) is not None:
            return
        ports = self._known.ports.get(canonical(name), frozenset())
        number = number_of(port)
        if ports and (number in ports or number is None):
            return
        if canonical(name) == LOCALHOST and number is None:
            return  # no question is asked for it; connecting is another matter
        shown = name if number is None else f"{name}:{number}"
        raise self.refusal(
            "name", shown, "is not a destination of this gateway, and its name is not looked up"
        )

    # After: each address that DNS gave.

    def learn(self, host: str | bytes | None, addresses: Iterable[str]) -> None:
        """Takes note of an answer of DNS. Raises `EgressRefused` for one with an address that may not be.

        The error names the host and the first such address.
        """
        name = text_of(host)
        if name is None:
            return
        key = canonical(name)
        if address_of(key) is not None:
            return  # stands for itself, and is judged when it is connected to
        given = [(text, address_of(text)) for text in addresses]
        for text, address in given:
            if address is None or not self._may_be(key, address):
                raise self.refusal(
                    "answer", f"{name} ({text})",
                    "is an answer of DNS outside its place's `private_range`, or no single host's address",
                )  # fmt: skip
        now_s = self.monotonic_s()
        with self._lock:
            if len(self._answers) > ANSWERS_MAX:
                self._forget(now_s)
            for _, address in given:
                self._answers.setdefault(str(address), {})[key] = now_s

    # When a connection is opened: the address, whoever looked it up.

    def require_address(self, host: str, port: int) -> None:
        """Raises `EgressRefused` unless the address is on the list or was an answer for a name on it."""
        address = address_of(host)
        if address is None:
            raise self.refusal("address", f"{host}:{port}", "is a name where an address must be")
        usual = str(address)
        known = self._known.by_key
        if any(within(one, address) for one in known.get((usual, port), ())):
            return
        oldest_s = self.monotonic_s() - ANSWER_KEPT_S
        for name, at_s in tuple(self._answers.get(usual, {}).items()):
            if (
                at_s >= oldest_s
                and (those := known.get((name, port)))
                and all(within(d, address) for d in those)
            ):
                return
        raise self.refusal("address", f"{usual}:{port}", "is not a destination of this gateway")

    def is_peer(self, host: str, port: int, address: str) -> bool:
        """Whether a connection that was opened earlier to `host`, and leads to this address, may be used: the
        list may be another one by now."""
        found = address_of(address)
        those = self._known.by_key.get((canonical(host), port), ())
        return found is not None and bool(those) and all(within(one, found) for one in those)

    def refusal(self, kind: str, destination: str, why: str) -> EgressRefused:
        """Counts and logs a refusal; what is to be raised."""
        shown = destination if len(destination) <= SHOWN_MAX else "…" + destination[-SHOWN_MAX:]
        now_s = self.monotonic_s()
        with self._lock:
            self.refused[kind] += 1
            due = now_s - self._logged.get(shown, float("-inf")) >= LOGGED_AGAIN_S
            if due:
                if len(self._logged) >= LOGGED_MAX:
                    self._logged.clear()
                self._logged[shown] = now_s
        if due:
            logs.event("egress_refused", logging.ERROR, destination=shown, refused=kind)
        return EgressRefused(f"`{shown}` {why}; {HOW_TO_ALLOW}")

    def _may_be(self, name: str, address: IpAddress) -> bool:
        those = [one for port in self._known.ports.get(name, ()) for one in self._known.by_key[name, port]]
        return all(within(one, address) for one in those)

    def _forget(self, now_s: float) -> None:
        for usual, names in list(self._answers.items()):
            for name, at_s in list(names.items()):
                if now_s - at_s > ANSWER_KEPT_S:
                    del names[name]
            if not names:
                del self._answers[usual]

    # For Prometheus: a collector of its own, so that it counts from before there is a registry.

    def register(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        counted = CounterMetricFamily(
            "douane_egress_refused",
            "Connections and look-ups that were refused, by what was",
            labels=("refused",),
        )
        for kind, count in self.refused.items():
            counted.add_metric((kind,), count)
        yield counted
        yield GaugeMetricFamily(
            "douane_egress_destinations", "Destinations that are permitted", len(self._known.by_key)
        )


def within(destination: Destination, address: IpAddress) -> bool:
    """Whether a host's address may be this one."""
    if destination.private:
        return any(address in network for network in destination.private)
    if address_of(destination.host) == address:
        return True  # written down as it is
    return not (
        address.is_multicast or address.is_link_local or address.is_unspecified or is_broadcast(address)
    )


def is_broadcast(address: IpAddress) -> bool:
    return address.version == 4 and address == ipaddress.IPv4Address("255.255.255.255")


def address_of(text: str) -> IpAddress | None:
    """The address that a text is, an IPv4 one in IPv6 clothing unwrapped; None for a name."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def text_of(host: str | bytes | None) -> str | None:
    """None stands for this machine itself, as in a listening socket's address."""
    if isinstance(host, bytes):
        return host.decode("ascii", "replace") or None
    return host or None


def number_of(port: int | str | bytes | None) -> int | None:
    """A port as a number; None for none, or for the name of a service."""
    if isinstance(port, bytes):
        port = port.decode("ascii", "replace")
    if isinstance(port, str):
        return int(port) if port.isdecimal() else None
    return port or None
