"""`zones.yaml`: where places are and under whose law, every line with its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.policy.geography import AwsRegion, Geography, Operator, countries
from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.source.check import ZONE_PATTERN, Date, Entry, Text, Word
from gateway.policy.source.document import Document, Path

Zone = Annotated[str, StringConstraints(pattern=ZONE_PATTERN)]

# Codes that people write for a country and that ISO 3166 does not have, or not for that country.
COUNTRY_HINTS: Mapping[str, str] = MappingProxyType({"UK": "GB", "EL": "GR", "EN": "GB"})


class SourceEntry(Entry):
    """Where a statement stands, and when whoever answers for the bundle has compared the two."""

    title: Text
    url: Annotated[str, StringConstraints(pattern=r"^https://\S+$")]
    verified_on: Date | None = None


class UnionEntry(Entry):
    """A union of countries."""

    members: Annotated[list[str], Field(min_length=1)]
    as_of: Date
    source: Word


class RegionEntry(Entry):
    """The country where an AWS region's data centres stand."""

    country: str
    source: Word


class MeaningEntry(Entry):
    """A legal regime, in words."""

    means: Text
    source: Word


class AttestationEntry(Entry):
    """An attestation, in words; `operators` are those who may claim it for a place of theirs."""

    means: Text
    source: Word
    operators: list[str] | None = None


class OperatorEntry(Entry):
    """Who runs places: the regimes that can compel it, and what holds at every place of it."""

    name: Text
    regimes: list[str]
    attestations: list[str]
    source: Word


class PartitionEntry(Entry):
    """Who operates an AWS partition."""

    operator: str
    source: Word


class ServingEntry(Entry):
    """The in-region id of a model on Bedrock, and the regions that serve it."""

    id: Annotated[str, StringConstraints(pattern=r"^openai\.[a-z0-9.:-]+$")]
    regions: Annotated[list[str], Field(min_length=1)]
    source: Word


class ZonesFile(Entry):
    """`zones.yaml`"""

    sources: dict[Word, SourceEntry]
    unions: dict[Zone, UnionEntry]
    regimes: dict[Word, MeaningEntry]
    attestations: dict[Word, AttestationEntry]
    operators: dict[Word, OperatorEntry]
    partitions: dict[Word, PartitionEntry]
    regions: dict[Word, RegionEntry]
    bedrock: dict[Word, ServingEntry]


def build_geography(
    document: Document, file: ZonesFile, aws: Mapping[str, AwsRegion]
) -> tuple[Geography, list[Problem]]:
    """The geography, with every name in it known to ISO 3166, to botocore, or to the file itself."""
    iso = countries()
    problems = [*sources_missing(document, file)]

    def known(path: Path, word: str, words: Iterable[str], what: str) -> None:
        words = list(words)
        if word not in words:
            hint = COUNTRY_HINTS.get(word) if what == "ISO 3166 country" else None
            problems.append(
                document.problem(
                    path,
                    f"`{word}` is not a known {what}",
                    f"did you mean `{hint}`?" if hint else did_you_mean(word, words),
                )
            )

    zones: dict[str, set[str]] = {country: set() for country in iso}
    for union, members in file.unions.items():
        if union in iso:
            problems.append(
                document.problem(
                    ("unions", union), f"`{union}` is a country", "give the union another name", key=True
                )
            )
        for index, member in enumerate(members.members):
            known(("unions", union, "members", index), member, iso, "ISO 3166 country")
            zones.get(member, set()).add(union)
    for region, where in file.regions.items():
        if region not in aws:
            problems.append(
                document.problem(
                    ("regions", region),
                    f"`{region}` is not an AWS region",
                    did_you_mean(region, aws),
                    key=True,
                )
            )
        known(("regions", region, "country"), where.country, iso, "ISO 3166 country")
    for attestation, about in file.attestations.items():
        for index, operator in enumerate(about.operators or ()):
            known(("attestations", attestation, "operators", index), operator, file.operators, "operator")
    for operator, runs in file.operators.items():
        for index, regime in enumerate(runs.regimes):
            known(("operators", operator, "regimes", index), regime, file.regimes, "regime")
        for index, attestation in enumerate(runs.attestations):
            path: Path = ("operators", operator, "attestations", index)
            known(path, attestation, file.attestations, "attestation")
    partitions = {region.partition for region in aws.values()}
    for partition, run_by in file.partitions.items():
        known(("partitions", partition), partition, partitions, "AWS partition")
        known(("partitions", partition, "operator"), run_by.operator, file.operators, "operator")
    for model, serving in file.bedrock.items():
        for index, region in enumerate(serving.regions):
            known(("bedrock", model, "regions", index), region, file.regions, "region of this file")
    return (
        Geography(
            zones=MappingProxyType({country: frozenset(unions) for country, unions in zones.items()}),
            unions=MappingProxyType(
                {union: frozenset(about.members) for union, about in file.unions.items()}
            ),
            regions=MappingProxyType({region: about.country for region, about in file.regions.items()}),
            operators=MappingProxyType(
                {
                    name: Operator(name, frozenset(about.regimes), frozenset(about.attestations))
                    for name, about in file.operators.items()
                }
            ),
            partition_operators=MappingProxyType(
                {partition: about.operator for partition, about in file.partitions.items()}
            ),
            regimes=frozenset(file.regimes),
            attestations=MappingProxyType(
                {
                    name: None if about.operators is None else frozenset(about.operators)
                    for name, about in file.attestations.items()
                }
            ),
            serving=MappingProxyType(
                {
                    model: MappingProxyType({about.id: frozenset(about.regions)})
                    for model, about in file.bedrock.items()
                }
            ),
        ),
        problems,
    )


def sources_missing(document: Document, file: ZonesFile) -> list[Problem]:
    """A problem for each line whose source is not listed under `sources`."""
    sections: Mapping[str, Mapping[str, Entry]] = {
        "unions": file.unions,
        "regimes": file.regimes,
        "attestations": file.attestations,
        "operators": file.operators,
        "partitions": file.partitions,
        "regions": file.regions,
        "bedrock": file.bedrock,
    }
    return [
        document.problem(
            (section, name, "source"),
            f"`{entry.source}` is not under `sources`",  # type: ignore[attr-defined]
            did_you_mean(entry.source, file.sources),  # type: ignore[attr-defined]
        )
        for section, entries in sections.items()
        for name, entry in entries.items()
        if entry.source not in file.sources  # type: ignore[attr-defined]
    ]
