"""One region of the account, from the first question to the last judgement."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from gateway.doctor import access, keeping, routes
from gateway.doctor.calls import RegionCalls
from gateway.doctor.copies import NotPermitted, copy_place, not_permitted
from gateway.doctor.endpoints import Endpoints
from gateway.doctor.finding import Finding, Status
from gateway.doctor.routes import Resolve
from gateway.places import Place
from gateway.policy.bundle import Bundle
from gateway.policy.geography import AwsRegion

REGIONS_AT_ONCE: Final = 8


def examine_account(
    bundle: Bundle,
    gateway_place: str,
    session: Any,
    endpoints: Endpoints,
    aws: Mapping[str, AwsRegion],
    resolve: Resolve | None = None,
) -> tuple[Finding, ...]:
    """The findings of every region that a Bedrock place of the bundle has; no other region is asked."""
    if not has_credentials(session):
        fix = "give this machine a role, a profile (`aws_profile`) or keys"
        return (Finding("credentials", None, Status.FAIL, "none for AWS: no region was asked", fix),)
    by_region: dict[str, list[Place]] = {}
    for place in bundle.places.values():
        if place.kind == "bedrock" and place.region is not None:
            by_region.setdefault(place.region, []).append(place)
    asked = [(RegionCalls(session, endpoints, region), places) for region, places in by_region.items()]

    def examine(one: tuple[RegionCalls, list[Place]]) -> list[Finding]:
        calls, places = one
        found = list(examine_region(bundle, gateway_place, calls, places, aws, resolve or addresses_of))
        return [replace(finding, emulated=calls.emulated) for finding in found]

    if not asked:
        return ()
    with ThreadPoolExecutor(min(REGIONS_AT_ONCE, len(asked)), "doctor") as threads:
        return tuple(finding for found in threads.map(examine, asked) for finding in found)


def has_credentials(session: Any) -> bool:
    """Asked once: a session without credentials looks for them anew, with time-outs, for every client."""
    try:
        return session.get_credentials() is not None
    except (BotoCoreError, ClientError, OSError, RuntimeError):
        return False


def examine_region(
    bundle: Bundle,
    gateway_place: str,
    calls: RegionCalls,
    places: Sequence[Place],
    aws: Mapping[str, AwsRegion],
    resolve: Resolve,
) -> Iterator[Finding]:
    """Everything about one region. `places` are those in it."""
    region = calls.region
    used = {model_id: place.id for place in places for model_id in place.models.values()}

    @functools.cache
    def may_keep(lies_in: str) -> NotPermitted | None:
        copy = copy_place(bundle, aws[lies_in])
        if copy is None:
            raise LookupError(lies_in)
        found = (not_permitted(bundle, place.id, copy, gateway_place) for place in places)
        return next((one for one in found if one is not None), None)

    who = calls.ask("sts", "GetCallerIdentity")
    yield access.identity(region, who)
    yield access.clock(region, who)
    for model_id in used:
        offered = calls.ask("bedrock", "GetFoundationModel", modelIdentifier=model_id)
        yield access.model_offered(region, model_id, offered)
        available = calls.ask("bedrock", "GetFoundationModelAvailability", modelId=model_id)
        yield access.model_access(region, model_id, available)
    yield keeping.retention(region, calls.ask("bedrock", "GetAccountDataRetention"), may_keep)
    logging = calls.ask("bedrock", "GetModelInvocationLoggingConfiguration")
    buckets = {
        name: calls.ask("s3", "GetBucketLocation", Bucket=name) for name in keeping.buckets_of(logging)
    }
    yield from keeping.invocation_logging(region, logging, buckets, may_keep)
    profiles = calls.ask("bedrock", "ListInferenceProfiles")
    yield from routes.inference_profiles(region, used, profiles)
    names = {"Name": "service-name", "Values": [f"*.{region}.bedrock-runtime"]}
    endpoints = calls.ask("ec2", "DescribeVpcEndpoints", Filters=[names])
    yield from routes.vpc_endpoint(region, endpoints)
    declared = list(dict.fromkeys(network for place in places for network in place.private_range))
    yield from routes.private_name(region, aws[region].bedrock_host, declared, endpoints, resolve)


def addresses_of(host: str) -> Sequence[str]:
    """The addresses of a name, by this machine's resolver. Raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]
