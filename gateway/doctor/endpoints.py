"""Which address each AWS service of a region has: derived, and never taken from an environment or profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.policy.geography import AwsRegion

SERVICES = ("sts", "bedrock", "s3", "ec2")


class Endpoints(Protocol):
    """Where the doctor's calls go."""

    @property
    def emulated(self) -> bool: ...

    def url(self, service: str, region: str) -> str | None:
        """Base URL of a service in a region; None where there is no such service to ask."""
        ...


@dataclass(frozen=True, slots=True)
class AwsEndpoints:
    """AWS itself: `https://{service}.{region}.{suffix of the partition}`."""

    regions: Mapping[str, AwsRegion]
    emulated: bool = False

    def url(self, service: str, region: str) -> str:
        return f"https://{service}.{region}.{self.regions[region].dns_suffix}"


@dataclass(frozen=True, slots=True)
class EmulatorEndpoints:
    """The demo's Bedrock emulators, by region. There is no other service behind them."""

    urls: Mapping[str, str]
    emulated: bool = True

    def url(self, service: str, region: str) -> str | None:
        return self.urls.get(region) if service == "bedrock" else None
