"""Judgements on the ways that a request could take: inference profiles, VPC endpoints, names."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gateway.doctor.access import unknown
from gateway.doctor.calls import Reply, Unanswered
from gateway.doctor.finding import Finding, Status
from gateway.places import IpNetwork

Resolve = Callable[[str], Sequence[str]]  # raises OSError


def profile_regions(profile: Mapping[str, Any]) -> set[str]:
    """The regions whose models a profile calls."""
    arns = (model.get("modelArn", "").split(":") for model in profile.get("models", ()))
    return {arn[3] for arn in arns if len(arn) > 3 and arn[3]}


def inference_profiles(region: str, used: Mapping[str, str], reply: Reply) -> Iterator[Finding]:
    """Whether a request of the bundle goes by a profile, which may answer it in another region.

    `used` maps each model id of the region's places to a place.
    """
    check = "inference profiles"
    if isinstance(reply, Unanswered):
        yield unknown(check, region, reply)
        return
    profiles = reply.members.get("inferenceProfileSummaries", [])
    clear = True
    for profile in profiles:
        names = {profile["inferenceProfileId"], profile["inferenceProfileArn"]}
        elsewhere = sorted(profile_regions(profile) - {region})
        models = {model.get("modelArn", "").rpartition("foundation-model/")[2] for model in profile["models"]}
        if by_profile := sorted(names & used.keys()):
            clear = False
            seen = f"place `{used[by_profile[0]]}` uses profile `{by_profile[0]}`"
            seen += f", which also answers in {', '.join(elsewhere)}" if elsewhere else ""
            fix = "name the model itself in `places.yaml`: a profile may answer anywhere"
            yield Finding(check, region, Status.FAIL, seen, fix)
        elif elsewhere and (reachable := sorted(models & used.keys())):
            clear = False
            kind = "an application's" if profile.get("type") == "APPLICATION" else "AWS's"
            seen = (
                f"{kind} profile `{profile['inferenceProfileId']}` offers `{reachable[0]}` "
                f"from {', '.join(elsewhere)}; the bundle does not use it"
            )
            fix = "deny `bedrock:InvokeModel*` on `inference-profile/*` to the gateway's role"
            yield Finding(check, region, Status.WARN, seen, fix)
    if clear:
        seen = f"{len(profiles)} in this region, none for a model of the bundle"
        yield Finding(check, region, Status.OK, seen)


def vpc_endpoint(region: str, reply: Reply) -> Iterator[Finding]:
    """Whether Bedrock's runtime can be reached without the internet, and what the way lets through."""
    check = "VPC endpoint"
    if isinstance(reply, Unanswered):
        yield unknown(check, region, reply)
        return
    endpoints = runtime_endpoints(reply)
    if not endpoints:
        fix = "make an interface endpoint for `bedrock-runtime` in the gateway's VPC, with private DNS"
        yield Finding(check, region, Status.WARN, "none: requests take the public way (TLS)", fix)
    for endpoint in endpoints:
        name = f"`{endpoint['VpcEndpointId']}` in `{endpoint.get('VpcId', '?')}`"
        if str(endpoint.get("State", "")).lower() != "available":
            seen = f"{name} is {endpoint.get('State')}"
            yield Finding(check, region, Status.FAIL, seen, "repair or remove it")
            continue
        faults = {
            "without private DNS, so the gateway's host name goes past it": (
                not endpoint.get("PrivateDnsEnabled"),
                "turn private DNS on",
            ),
            "with a policy that lets everyone call every model": (
                wildcard(endpoint.get("PolicyDocument")),
                "allow only your account's role and the models of the bundle",
            ),
        }
        found = {seen: fix for seen, (wrong, fix) in faults.items() if wrong}
        if found:
            seen = f"{name}: {' and '.join(found)}"
            yield Finding(check, region, Status.WARN, seen, "; ".join(found.values()))
        else:
            yield Finding(check, region, Status.OK, f"{name}, private DNS, policy narrowed")


def runtime_endpoints(reply: Reply) -> list[Mapping[str, Any]]:
    if isinstance(reply, Unanswered):
        return []
    found = reply.members.get("VpcEndpoints", [])
    return [each for each in found if str(each.get("ServiceName", "")).endswith(".bedrock-runtime")]


def wildcard(policy: str | None) -> bool:
    """Whether an endpoint's policy (none is AWS's own: everything) allows anyone, any action or any model."""
    if not policy:
        return True
    try:
        statements = json.loads(policy).get("Statement", [])
    except (ValueError, AttributeError):
        return True
    for one in statements if isinstance(statements, list) else [statements]:
        if one.get("Effect") != "Allow":
            continue
        principals = one.get("Principal")
        anyone = principals == "*" or (
            isinstance(principals, Mapping) and "*" in listed(principals.get("AWS"))
        )
        every = "*" in listed(one.get("Resource")) or any(
            action in ("*", "bedrock:*") for action in listed(one.get("Action"))
        )
        if (anyone and not one.get("Condition")) or every:
            return True
    return False


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def private_name(
    region: str, host: str, declared: Sequence[IpNetwork], endpoints: Reply, resolve: Resolve
) -> Iterator[Finding]:
    """Whether Bedrock's name leads to where it must: into the networks that the places declare, else to the
    endpoint where one with private DNS is there."""
    has_name = any(endpoint.get("PrivateDnsEnabled") for endpoint in runtime_endpoints(endpoints))
    if not declared and not has_name:
        return
    check = "Bedrock's address"
    try:
        addresses = sorted(set(resolve(host)))
    except OSError:
        fix = "run the doctor where the gateway runs"
        yield Finding(check, region, Status.UNKNOWN, f"`{host}` has no address here", fix)
        return
    if declared:
        ranges = ", ".join(str(network) for network in declared)
        outside = [
            each for each in addresses if not any(ipaddress.ip_address(each) in one for one in declared)
        ]
        if outside:
            seen = f"`{host}` is {', '.join(outside)}: outside {ranges}, so the gateway refuses to connect"
            fix = "correct `private_range` in `places.yaml`, or the VPC endpoint's DNS"
            yield Finding(check, region, Status.FAIL, seen, fix)
        else:
            yield Finding(check, region, Status.OK, f"`{host}` is {', '.join(addresses)}: in {ranges}")
        return
    public = [each for each in addresses if not ipaddress.ip_address(each).is_private]
    if public:
        seen = f"`{host}` is {', '.join(public)}: public, past the VPC endpoint"
        fix = "run the doctor in the endpoint's VPC; if you did, turn on DNS support of the VPC"
        yield Finding(check, region, Status.WARN, seen, fix)
    else:
        yield Finding(check, region, Status.OK, f"`{host}` is {', '.join(addresses)}: private")
