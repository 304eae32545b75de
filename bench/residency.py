"""What one residency decision costs with 60 backends: `permit` over a compiled table, nothing around it."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.facts import Facts
from gateway.places import BACKEND_KINDS, Place
from gateway.policy.bundle import Bundle
from gateway.policy.compile import compile_table
from gateway.policy.load import load_bundle
from gateway.policy.permit import permit

BACKENDS: Final = 60
DECISIONS: Final = 20_000


def with_backends(bundle: Bundle, count: int) -> Bundle:
    """The bundle with copies of its backends until there are `count`, compiled anew under the same rules."""
    originals = [place for place in bundle.places.values() if place.kind in BACKEND_KINDS]
    places: dict[str, Place] = dict(bundle.places)
    for number, original in zip(range(count - len(originals)), itertools.cycle(originals), strict=False):
        places[f"{original.id}-{number}"] = replace(original, id=f"{original.id}-{number}")
    tenants = [(tenant.id, tenant.zone) for tenant in bundle.tenants.values()]
    table = compile_table(
        bundle.rules, places, bundle.vocabulary, bundle.geography.zones, tenants, bundle.routes.models
    )
    return replace(bundle, places=MappingProxyType(places), table=table)


def decision_us(policies: Path) -> float:
    """Microseconds for one decision: the median of 20 runs over every tenant, model and set of labels."""
    bundle = with_backends(load_bundle(policies), BACKENDS)
    every = [
        Facts(tenant.id, tenant.zone, tenant.caller.purpose, model, labels)
        for tenant in bundle.tenants.values()
        for model in sorted(bundle.routes.models)
        for labels in bundle.table.labels
    ]
    runs = []
    for _ in range(20):
        began_s = time.perf_counter()
        for facts in itertools.islice(itertools.cycle(every), DECISIONS // 20):
            permit(facts, bundle)
        runs.append((time.perf_counter() - began_s) / (DECISIONS // 20) * 1e6)
    return statistics.median(runs)
