"""The list of destinations: every `host:port` that this gateway may connect to, for which place and why.

It follows from the settings and the bundle in force, and is made anew when another bundle comes into force.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.egress.aws import AwsSource, credential_hosts, host_of_service
from gateway.hidden import told
from gateway.places import BACKEND_KINDS, IpNetwork, Place
from gateway.policy.bundle import Bundle
from gateway.policy.problems import did_you_mean
from gateway.settings import BackendSettings, Settings, SettingsInvalid
from gateway.store.address import parse_url

PORT_OF_SCHEME: Final[Mapping[str, int]] = MappingProxyType({"https": 443, "http": 80})
CREDENTIALS: Final = "aws credentials"


@dataclass(frozen=True, slots=True)
class Destination:
    """One `host:port`. `place` is the place that is reached there, None where it is no place's own.

    `private` holds the networks that every address of the host must be in; empty is no such bound.
    """

    host: str
    port: int
    place: str | None
    why: str
    private: tuple[IpNetwork, ...] = ()

    @property
    def name(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Destinations:
    """A set of destinations, by host and port. One host and port may serve several places."""

    by_key: Mapping[Key, tuple[Destination, ...]]
    ports: Mapping[str, frozenset[int]]

    @classmethod
    def of(cls, each: Iterable[Destination]) -> Destinations:
        by_key: dict[Key, list[Destination]] = {}
        ports: dict[str, set[int]] = {}
        for one in each:
            known = by_key.setdefault((one.host, one.port), [])
            if one not in known:
                known.append(one)
            ports.setdefault(one.host, set()).add(one.port)
        return cls(
            MappingProxyType({key: tuple(known) for key, known in by_key.items()}),
            MappingProxyType({host: frozenset(those) for host, those in ports.items()}),
        )

    def allow(
        self, host: str, port: int, why: str, place: str | None = None, private: tuple[IpNetwork, ...] = ()
    ) -> Destinations:
        """These and one more."""
        return Destinations.of([*self, Destination(canonical(host), port, place, why, private)])

    def __iter__(self) -> Iterator[Destination]:
        for known in self.by_key.values():
            yield from known


def canonical(host: str) -> str:
    """A host as it is compared: lowercase, without a final dot; an address in its usual form."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def destinations(settings: Settings, bundle: Bundle | None, aws: AwsSource | None = None) -> Destinations:
    """What the settings name, and what the places of the bundle need.

    Without a bundle: what is needed before there is one, the engine. `aws` says where credentials come from;
    the default reads this process's environment and AWS configuration. Raises `SettingsInvalid`.
    """
    if bundle is None:
        return Destinations.of([*started_engine(settings), *wrapping(settings), *credentials(settings, aws)])
    places = bundle.places
    problems: list[str] = []
    found: list[Destination] = [*started_engine(settings), *store(settings, places)]
    if settings.trace_url is not None and (collector := places.get(settings.trace_place or "")):
        found.append(at_url(settings.trace_url, collector, "traces, `trace_url`"))
    for place in places.values():
        if place.kind in BACKEND_KINDS:
            found += backend(place, settings, problems)
    found += [*wrapping(settings), *copies(settings, places)]
    bedrock = settings.bedrock == "aws" and any(place.kind == "bedrock" for place in places.values())
    found += credentials(settings, aws, bedrock or settings.audit_s3_bucket is not None)
    for name, place_id in settings.egress.items():
        if place_id not in places:
            problems.append(
                f"`egress` gives `{name}` to the place `{place_id}`, which places.yaml does not have; "
                + did_you_mean(place_id, places)
            )
            continue
        host, port = host_and_port(name, "egress")
        found.append(Destination(host, port, place_id, "named in `egress`", places[place_id].private_range))
    if problems:
        raise SettingsInvalid(tuple(problems))
    return Destinations.of(found)


def started_engine(settings: Settings) -> Iterator[Destination]:
    """The engine that `serve` starts, before and after its port is known as a URL."""
    if settings.model is not None and settings.engine_url is None:
        yield Destination(
            "127.0.0.1", settings.engine_port, settings.engine_place, "engine that `serve` starts"
        )


def wrapping(settings: Settings) -> Iterator[Destination]:
    """KMS, where it wraps keys: it is sent keys and no content."""
    if settings.kms_region is not None:
        host, port = host_of_service("kms", settings.kms_region)
        yield Destination(canonical(host), port, None, f"keys, kms in {settings.kms_region}")


def credentials(settings: Settings, aws: AwsSource | None, used: bool = False) -> Iterator[Destination]:
    """Where AWS credentials come from; nothing where neither KMS nor another service (`used`) needs any."""
    if not used and settings.kms_key_id is None:
        return
    source = aws or AwsSource.of_this_process(settings.aws_profile, settings.aws_instance_role)
    for host, port, why in credential_hosts(source):
        yield Destination(canonical(host), port, None, f"{CREDENTIALS}: {why}")


def copies(settings: Settings, places: Mapping[str, Place]) -> Iterator[Destination]:
    """S3, where the audit is copied into a bucket."""
    if settings.audit_s3_region is not None:
        host, port = host_of_service("s3", settings.audit_s3_region)
        place = places.get(settings.audit_s3_place or "")
        why = f"audit, bucket `{settings.audit_s3_bucket}`"
        yield Destination(
            canonical(host), port, place.id if place else None, why, place.private_range if place else ()
        )


def store(settings: Settings, places: Mapping[str, Place]) -> Iterator[Destination]:
    if settings.redis_url is not None:
        address = parse_url(told(settings.redis_url))
        place = places.get(settings.redis_place)
        yield Destination(
            canonical(address.host), address.port, place.id if place else None, "store, `redis_url`",
            place.private_range if place else (),
        )  # fmt: skip


def backend(place: Place, settings: Settings, problems: list[str]) -> Iterator[Destination]:
    """What the backend of a place connects to; nothing for a place that this gateway has no backend for."""
    given = settings.backends.get(place.id)
    if place.kind == "bedrock":
        if settings.bedrock == "aws" and place.host is not None:
            yield Destination(place.host, 443, place.id, f"bedrock in {place.region}", place.private_range)
        elif settings.bedrock == "emulator" and (url := settings.emulator_urls.get(place.region or "")):
            yield at_url(url, place, f"emulated bedrock of {place.region}")
        return
    if place.kind == "engine" and place.id == settings.engine_place and settings.engine_url is not None:
        given = BackendSettings(url=settings.engine_url)
    if given is None:
        return
    if given.url is not None:
        yield at_url(given.url, place, f"backend of kind {place.kind}")
    elif place.kind == "litellm":
        problems.append(
            f"`backends.{place.id}` has no `url`; write the provider's base URL, for example "
            "`https://api.mistral.ai/v1`: a gateway connects only to hosts that are written down"
        )
    for name in given.hosts:
        host, port = host_and_port(name, f"backends.{place.id}.hosts")
        yield Destination(
            host, port, place.id, f"named in `hosts` of a {place.kind} backend", place.private_range
        )


def at_url(url: str, place: Place, why: str) -> Destination:
    parts = urlsplit(url)
    port = parts.port or PORT_OF_SCHEME.get(parts.scheme, 443)
    return Destination(canonical(parts.hostname or ""), port, place.id, why, place.private_range)


def host_and_port(name: str, field: str) -> Key:
    """`host`, `host:port` or `[address]:port`; without a port, that of https. Raises `SettingsInvalid`."""
    try:
        parts = urlsplit(f"//{name}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or "/" in name or "@" in name or "*" in name:
        raise SettingsInvalid((f"`{name}` in `{field}` is not a host; write `host` or `host:port`",))
    return canonical(host), port or PORT_OF_SCHEME["https"]


def as_rows(known: Destinations) -> list[dict[str, Any]]:
    """What `douane egress` prints, sorted by place, those of no place last."""
    return sorted(
        (
            {
                "destination": one.name,
                "host": one.host,
                "port": one.port,
                "place": one.place,
                "why": one.why,
                "private_range": [str(network) for network in one.private],
            }
            for one in known
        ),
        key=lambda row: (row["place"] is None, row["place"], row["host"], row["port"]),
    )
