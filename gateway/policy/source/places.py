"""`places.yaml`: every backend and sink, with where it stands and who runs it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field

from gateway.places import BACKEND_KINDS, IpNetwork, Place
from gateway.policy.geography import AwsRegion, Geography
from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.source.check import Entry, Text, Word, Words
from gateway.policy.source.document import Document, Path
from gateway.policy.source.zones import COUNTRY_HINTS

Kind = Literal[
    "engine",
    "bedrock",
    "openai",
    "litellm",
    "gateway",
    "redis",
    "memory",
    "audit",
    "log",
    "trace",
    "metrics",
]

# `us.`, `eu.`, `global.`, `us-gov.` … in front of a vendor's name: a cross-region inference profile.
PROFILE: Final = re.compile(r"([a-z]{2,6}(?:-[a-z]+)?)\.(?=[a-z0-9-]+\.)")


class PlaceEntry(Entry):
    """One place. A bedrock place gives its region; every other kind its country and operator."""

    id: Word
    kind: Kind
    models: Annotated[
        dict[Word, Text] | None,
        Field(description="canonical model name to the id that the backend knows it by"),
    ] = None
    region: Annotated[str | None, Field(description="the AWS region; only of a bedrock place")] = None
    country: Annotated[str | None, Field(description="ISO 3166-1 alpha-2; not of a bedrock place")] = None
    operator: Annotated[str | None, Field(description="from zones.yaml; not of a bedrock place")] = None
    attested: Annotated[Words | None, Field(description="attestations of this very place")] = None
    private_range: Annotated[
        list[Text] | None,
        Field(
            min_length=1,
            description="networks that every address of the place's host must be in, such as 10.0.0.0/8",
        ),
    ] = None


class PlacesFile(Entry):
    """`places.yaml`"""

    places: Annotated[list[PlaceEntry], Field(min_length=1, max_length=1000)]


def build_places(
    document: Document, file: PlacesFile, geography: Geography, aws: Mapping[str, AwsRegion]
) -> tuple[Mapping[str, Place], list[Problem]]:
    """The places by id; those with a problem are left out."""
    places: dict[str, Place] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(file.places):
        path: Path = ("places", index)
        if entry.id in places:
            problems.append(
                document.problem(
                    (*path, "id"), f"`{entry.id}` is already a place", "give each place its own id"
                )
            )
            continue
        found = models_problems(document, path, entry)
        if entry.kind == "bedrock":
            place, more = bedrock_place(document, path, entry, geography, aws)
        else:
            place, more = declared_place(document, path, entry, geography)
        problems += [*found, *more]
        if place is not None:
            places[entry.id] = place
    return MappingProxyType(places), problems


def models_problems(document: Document, path: Path, entry: PlaceEntry) -> list[Problem]:
    """Backends serve models, sinks do not."""
    if entry.kind in BACKEND_KINDS and not entry.models:
        hint = "add `models:` with a line such as `gpt-oss-20b: <id of the backend>`"
        return [document.problem(path, f"`{entry.id}` serves no model", hint)]
    if entry.kind not in BACKEND_KINDS and entry.models is not None:
        message = f"a place of kind `{entry.kind}` serves no models"
        return [document.problem((*path, "models"), message, "remove `models`", key=True)]
    return []


def bedrock_place(
    document: Document, path: Path, entry: PlaceEntry, geography: Geography, aws: Mapping[str, AwsRegion]
) -> tuple[Place | None, list[Problem]]:
    """A place in AWS Bedrock: all that counts follows from the region that requests are signed for."""
    problems = [
        document.problem(
            (*path, key),
            f"the {key} of a bedrock place follows from its region",
            f"remove `{key}`",
            key=True,
        )
        for key, value in (("country", entry.country), ("operator", entry.operator))
        if value is not None
    ]
    if entry.region is None:
        return None, [
            *problems,
            document.problem(path, "a bedrock place needs `region`", "add `region: ...`"),
        ]
    at_region: Path = (*path, "region")
    region = aws.get(entry.region)
    if region is None:
        hint = did_you_mean(entry.region, aws)
        return None, [*problems, document.problem(at_region, f"`{entry.region}` is not an AWS region", hint)]
    country = geography.regions.get(region.id)
    operator_name = geography.partition_operators.get(region.partition)
    if country is None:
        hint = f"add `{region.id}` under `regions` of zones.yaml, with its country and source"
        return None, [*problems, document.problem(at_region, f"`{region.id}` has no country", hint)]
    if operator_name is None:
        hint = f"add `{region.partition}` under `partitions` of zones.yaml"
        message = f"the operator of `{region.partition}` is not known"
        return None, [*problems, document.problem(at_region, message, hint)]
    for model, upstream in (entry.models or {}).items():
        problems += served_problems(document, (*path, "models", model), model, upstream, region.id, geography)
    operator = geography.operators[operator_name]
    own, more = own_attestations(document, path, entry, operator.id, geography)
    networks, unread = private_range(document, path, entry)
    problems += [*more, *unread]
    if problems:
        return None, problems
    return (
        Place(
            id=entry.id,
            kind=entry.kind,
            models=MappingProxyType(dict(entry.models or {})),
            region=region.id,
            partition=region.partition,
            country=country,
            zones=geography.zones_of(country),
            operator=operator.id,
            regimes=operator.regimes,
            attestations=operator.attestations | own,
            source="derived",
            host=region.bedrock_host,
            private_range=networks,
        ),
        [],
    )


def served_problems(
    document: Document, path: Path, model: str, upstream: str, region: str, geography: Geography
) -> list[Problem]:
    """Whether this region really serves this model, under an id that cannot leave the region."""
    if model not in geography.serving:
        hint = did_you_mean(model, geography.serving)
        message = f"zones.yaml does not say where Bedrock serves `{model}`"
        return [document.problem(path, message, hint, key=True)]
    (upstream_id, regions), *_ = geography.serving[model].items()
    hint = f"write `{upstream_id}`, which is served in `{region}` alone"
    if upstream.startswith("arn:"):
        message = f"`{upstream}` is an ARN, and an inference profile may serve it in another region"
        return [document.problem(path, message, hint)]
    profile = PROFILE.match(upstream)
    if profile is not None:
        message = (
            f"`{upstream}` is the cross-region profile `{profile[1]}.`, which may serve outside `{region}`"
        )
        return [document.problem(path, message, hint)]
    if upstream != upstream_id:
        return [document.problem(path, f"`{upstream}` is not Bedrock's in-region id of `{model}`", hint)]
    if region not in regions:
        near = ", ".join(f"`{name}`" for name in nearest_regions(region, regions, geography)[:4])
        return [
            document.problem(path, f"`{region}` does not serve `{model}`", f"the nearest that do: {near}")
        ]
    return []


def nearest_regions(region: str, serving: frozenset[str], geography: Geography) -> list[str]:
    """The serving regions, the likeliest substitute first: same country, shared unions, same continent."""
    country = geography.regions[region]

    def distance(other: str) -> tuple[bool, int, bool, str]:
        there = geography.regions[other]
        shared = len(geography.zones[country] & geography.zones[there])
        return there != country, -shared, other.split("-")[0] != region.split("-")[0], other

    return sorted(serving, key=distance)


def declared_place(
    document: Document, path: Path, entry: PlaceEntry, geography: Geography
) -> tuple[Place | None, list[Problem]]:
    """A place whose country and operator are the word of whoever wrote the bundle."""
    problems: list[Problem] = []
    if entry.region is not None:
        problems.append(
            document.problem(
                (*path, "region"), "only a bedrock place has a region", "write `country` instead", key=True
            )
        )
    for key, value in (("country", entry.country), ("operator", entry.operator)):
        if value is None:
            message = f"a place of kind `{entry.kind}` needs `{key}`"
            problems.append(document.problem(path, message, f"add `{key}: ...`"))
    if entry.country is not None and entry.country not in geography.zones:
        near = COUNTRY_HINTS.get(entry.country)
        hint = f"did you mean `{near}`?" if near else "write an ISO 3166-1 alpha-2 code such as `DE`"
        if entry.country in geography.unions:
            hint = "a place stands in one country; write that one"
        message = f"`{entry.country}` is not a known ISO 3166 country"
        problems.append(document.problem((*path, "country"), message, hint))
    operator = geography.operators.get(entry.operator or "")
    if entry.operator is not None and operator is None:
        message = f"`{entry.operator}` is not a known operator"
        hint = did_you_mean(entry.operator, geography.operators)
        problems.append(document.problem((*path, "operator"), message, hint))
    own, more = own_attestations(document, path, entry, entry.operator or "", geography)
    networks, unread = private_range(document, path, entry)
    problems += [*more, *unread]
    if problems or operator is None or entry.country is None:
        return None, problems
    return (
        Place(
            id=entry.id,
            kind=entry.kind,
            models=MappingProxyType(dict(entry.models or {})),
            region=None,
            partition=None,
            country=entry.country,
            zones=geography.zones_of(entry.country),
            operator=operator.id,
            regimes=operator.regimes,
            attestations=operator.attestations | own,
            source="declared",
            host=None,
            private_range=networks,
        ),
        [],
    )


def own_attestations(
    document: Document, path: Path, entry: PlaceEntry, operator: str, geography: Geography
) -> tuple[frozenset[str], list[Problem]]:
    """What this place is attested for itself, of what its operator may claim."""
    problems = []
    for index, word in enumerate(entry.attested or ()):
        at: Path = (*path, "attested", index)
        if word not in geography.attestations:
            hint = did_you_mean(word, geography.attestations)
            problems.append(document.problem(at, f"`{word}` is not a known attestation", hint))
            continue
        claimants = geography.attestations[word]
        if claimants is not None and operator not in claimants:
            message = f"a place that `{operator}` operates cannot be `{word}`"
            hint = f"only places operated by `{', '.join(sorted(claimants))}` can"
            problems.append(document.problem(at, message, hint))
    return frozenset(entry.attested or ()), problems


def private_range(
    document: Document, path: Path, entry: PlaceEntry
) -> tuple[tuple[IpNetwork, ...], list[Problem]]:
    """The networks that the place's host must be in; an address alone is a network of one."""
    networks: list[IpNetwork] = []
    problems = []
    for index, text in enumerate(entry.private_range or ()):
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            message = f"`{text}` is not a network"
            hint = "write the first address and the length of its prefix, such as `10.0.0.0/8`"
            problems.append(document.problem((*path, "private_range", index), message, hint))
    return tuple(networks), problems
