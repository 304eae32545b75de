"""Where regions are and under whose law their operators stand.

A region's name is never read as a jurisdiction: `eu-west-2` is in GB, `eu-central-2` in CH. The regions and
host names come from botocore's own data, the countries from the bundle, checked against ISO 3166.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pycountry
from botocore.loaders import Loader


@dataclass(frozen=True, slots=True)
class AwsRegion:
    """A region as botocore knows it."""

    id: str
    partition: str
    dns_suffix: str
    description: str

    @property
    def bedrock_host(self) -> str:
        """The host that a request to Bedrock's runtime in this region is signed for."""
        return f"bedrock-runtime.{self.id}.{self.dns_suffix}"


@dataclass(frozen=True, slots=True)
class Operator:
    """Who runs a place: the legal regimes that can compel it, and what it is attested for."""

    id: str
    regimes: frozenset[str]
    attestations: frozenset[str]


@dataclass(frozen=True, slots=True)
class Geography:
    """The places of the world, as one bundle sees them.

    `zones` maps every ISO 3166 country to the unions that it is in; `unions` each union to its members;
    `regions` an AWS region to its country; `serving` a canonical model to the Bedrock id and to the regions
    that serve it. `attestations` maps each attestation to the operators that may claim it for a place of
    theirs; None is any.
    """

    zones: Mapping[str, frozenset[str]]
    unions: Mapping[str, frozenset[str]]
    regions: Mapping[str, str]
    operators: Mapping[str, Operator]
    partition_operators: Mapping[str, str]
    regimes: frozenset[str]
    attestations: Mapping[str, frozenset[str] | None]
    serving: Mapping[str, Mapping[str, frozenset[str]]]

    def names(self) -> frozenset[str]:
        """Every zone that a rule may name: countries and unions."""
        return frozenset(self.zones) | frozenset(self.unions)

    def zones_of(self, country: str) -> frozenset[str]:
        """The country itself and every union that it is in."""
        return self.zones[country] | {country}


def aws_regions() -> dict[str, AwsRegion]:
    """Every region of every partition in botocore's endpoint data, by id. Reads package files only.

    The search path is botocore's own data directory: a file under `~/.aws/models` or `AWS_DATA_PATH`
    must not move a region.
    """
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    return {
        region: AwsRegion(region, partition["partition"], partition["dnsSuffix"], about["description"])
        for partition in loader.load_data("endpoints")["partitions"]
        for region, about in partition["regions"].items()
    }


def countries() -> frozenset[str]:
    """Every ISO 3166-1 alpha-2 code."""
    return frozenset(country.alpha_2 for country in pycountry.countries)
