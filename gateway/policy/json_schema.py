"""JSON Schemas of the bundle's files, for editors. The checked-in copies stand in `policies/schema/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel

from gateway.policy.source.cases import CasesFile
from gateway.policy.source.claims import ClaimsFile
from gateway.policy.source.detectors import DetectorsFile
from gateway.policy.source.packs import PackFile
from gateway.policy.source.places import PlacesFile
from gateway.policy.source.residency import ResidencyFile
from gateway.policy.source.routes import RoutesFile
from gateway.policy.source.tenants import TenantsFile
from gateway.policy.source.vocabulary import BundleFile
from gateway.policy.source.zones import ZonesFile

MODELS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {
        "bundle.json": BundleFile,
        "zones.json": ZonesFile,
        "places.json": PlacesFile,
        "tenants.json": TenantsFile,
        "routes.json": RoutesFile,
        "residency.json": ResidencyFile,
        "claims.json": ClaimsFile,
        "detectors.json": DetectorsFile,
        "tests.json": CasesFile,
        "pack.json": PackFile,
    }
)


def schemas() -> dict[str, str]:
    """The text of each schema file, by name."""
    return {
        name: json.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                **model.model_json_schema(by_alias=True),
            },
            indent=2,
        )
        + "\n"
        for name, model in MODELS.items()
    }


def write_schemas(directory: Path) -> list[Path]:
    """Writes every schema into `directory`, which is made when missing; the paths written."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in schemas().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
