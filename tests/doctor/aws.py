"""What the tests of the doctor share: a bundle of two regions, a session, and who was asked what."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import boto3

from gateway.doctor.calls import bare_session
from gateway.doctor.finding import Finding, Report
from gateway.policy.bundle import Bundle
from gateway.testing.bedrock.server import Running
from gateway.testing.bedrock.signature import Keys
from tests.policy.bundles import loaded_default

REGIONS = ("eu-central-1", "eu-west-1")
OUTSIDE = "us-east-1"
SMALL, LARGE = "openai.gpt-oss-20b-1:0", "openai.gpt-oss-120b-1:0"
SCOPE = re.compile(r"Credential=[^/]+/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/")


@functools.cache
def two_regions() -> Bundle:
    """The default bundle with only two of its Bedrock places."""
    bundle = loaded_default().bundle
    places = {
        place.id: place
        for place in bundle.places.values()
        if place.kind != "bedrock" or place.region in REGIONS
    }
    return replace(bundle, places=MappingProxyType(places))


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it left boto3."""

    host: str
    service: str
    region: str
    operation: str


@dataclass(slots=True)
class Witness:
    """A session whose requests are written down just before they leave."""

    session: Any
    sent: list[Sent] = field(default_factory=list)

    def note(self, request: Any, event_name: str, **_: Any) -> None:
        authorization = request.headers["Authorization"]
        text = authorization if isinstance(authorization, str) else authorization.decode()
        scope = SCOPE.search(text)
        assert scope, "a request that is not signed by SigV4"
        host = urlsplit(request.url).netloc
        self.sent.append(Sent(host, scope["service"], scope["region"], event_name.rpartition(".")[2]))

    @property
    def calls(self) -> set[tuple[str, str]]:
        return {(one.service, one.operation) for one in self.sent}


def witnessed() -> Witness:
    """A session that has sent nothing yet; always the same, because a new one reads AWS's models anew."""
    witness = the_session()
    witness.sent.clear()
    return witness


@functools.cache
def the_session() -> Witness:
    keys = Keys()
    session = boto3.Session(
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        botocore_session=bare_session(None),
    )
    witness = Witness(session)
    session.events.register("before-send.*", witness.note)
    return witness


@dataclass(frozen=True, slots=True)
class TestEndpoints:
    """Bedrock at the emulators, everything else at moto."""

    __test__ = False

    bedrock: Mapping[str, str]
    moto: str
    emulated: bool = True

    def url(self, service: str, region: str) -> str:
        return self.bedrock[region] if service == "bedrock" else self.moto


def at(emulators: Mapping[str, Running], moto_url: str) -> TestEndpoints:
    return TestEndpoints({region: running.url for region, running in emulators.items()}, moto_url)


def of(report: Report | tuple[Finding, ...], region: str | None, check: str) -> list[tuple[str, str, str]]:
    """(status, seen, fix) of the findings of one check."""
    findings = report.findings if isinstance(report, Report) else report
    return [
        (each.status.value, each.seen, each.fix)
        for each in findings
        if each.region == region and each.check == check
    ]
