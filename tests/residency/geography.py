"""A small world for generated bundles: countries, unions, operators and regions, as `zones.yaml` has them."""

from __future__ import annotations

from typing import Any

REGIONS = {
    "eu-central-1": "DE",
    "eu-north-1": "SE",
    "eu-west-1": "IE",
    "eu-west-2": "GB",
    "us-east-1": "US",
    "us-east-2": "US",
}
UNIONS = {"EU": ["DE", "IE", "SE"], "EEA": ["DE", "IE", "NO", "SE"], "EFTA": ["CH", "NO"]}
COUNTRIES = ("CH", "DE", "GB", "IE", "NO", "SE", "US")
REGIMES = ("cloud-act", "data-law")
ATTESTATIONS = ("audited", "on-premises")
OPERATORS: dict[str, tuple[list[str], list[str]]] = {
    "self": ([], []),
    "aws": (["cloud-act"], []),
    "hoster": ([], ["audited"]),
    "overseas": (["data-law"], []),
}
MODELS = {"gpt-oss-20b": "openai.gpt-oss-20b-1:0", "gpt-oss-120b": "openai.gpt-oss-120b-1:0"}

SOURCE = "own"


def zones_file() -> dict[str, Any]:
    """The content of `zones.yaml`; a new one at each call, to be altered."""
    return {
        "sources": {SOURCE: {"title": "made up for the tests", "url": "https://example.com/made-up"}},
        "unions": {
            name: {"members": list(members), "as_of": "2026-11-01", "source": SOURCE}
            for name, members in UNIONS.items()
        },
        "regimes": {name: {"means": "may order access", "source": SOURCE} for name in REGIMES},
        "attestations": {
            "audited": {"means": "somebody came and looked", "source": SOURCE},
            "on-premises": {"means": "it stands in our own rooms", "source": SOURCE, "operators": ["self"]},
        },
        "operators": {
            name: {"name": name, "regimes": regimes, "attestations": attested, "source": SOURCE}
            for name, (regimes, attested) in OPERATORS.items()
        },
        "partitions": {"aws": {"operator": "aws", "source": SOURCE}},
        "regions": {region: {"country": country, "source": SOURCE} for region, country in REGIONS.items()},
        "bedrock": {
            model: {"id": upstream, "regions": sorted(REGIONS), "source": SOURCE}
            for model, upstream in MODELS.items()
        },
    }
