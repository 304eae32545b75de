"""What it takes to prove the claims of a large bundle in which the rules tell everything apart.

    python -m bench.proof

12 categories on a scale of 4 (16,384 sets of labels), 60 backends, 40 countries of tenants, 4 purposes and 2
models, and to the rules no two of them are alike. Prints JSON: the time of the process that a gateway starts
for it, from its start to its answer, beside the bound of the design; then its parts.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.policy.entrances import entrances_of
from gateway.policy.geography import countries
from gateway.policy.load import compile_files
from gateway.policy.proof import prove
from gateway.policy.prover import TIMEOUT_S, prove_apart
from gateway.policy.requests import requests_of
from gateway.policy.source.directory import Files

BOUND_S: Final = 10.0
CATEGORIES: Final = tuple(f"category-{number:02}" for number in range(12))
SCALE: Final = ("public", "internal", "confidential", "secret")
PURPOSES: Final = ("care", "general", "support", "training")
MODELS: Final = ("large", "small")
ZONES: Final = tuple(sorted(countries())[::6][:40])
BACKENDS: Final = 60
POLICIES: Final = Path(__file__).parents[1] / "policies"


def large_bundle() -> Files:
    """The files of the bundle. JSON is YAML."""
    content = {
        "zones.yaml": (POLICIES / "zones.yaml").read_text(),
        "bundle.yaml": {
            "apiVersion": "douane/v1",
            "serial": 1,
            "vocabulary": {
                "sensitivity": list(SCALE),
                "categories": list(CATEGORIES),
                "purposes": list(PURPOSES),
            },
        },
        "places.yaml": {"places": places()},
        "tenants.yaml": {
            "tenants": [
                {"id": f"tenant-{zone.lower()}", "zone": zone, "purpose": "general"} for zone in ZONES[:10]
            ]
        },
        "routes.yaml": {
            "routes": [
                {
                    "id": "everyone",
                    "models": list(MODELS),
                    "tiers": [[{"place": backend(number)} for number in range(BACKENDS)]],
                    "attempts_max": 3,
                    "first_byte_timeout_s": 30,
                    "total_timeout_s": 300,
                }
            ]
        },
        "residency/all.yaml": rules(),
        "claims.yaml": claims(),
        "tests/one.yaml": [
            {
                "name": "public data is answered",
                "request": {"tenant": f"tenant-{ZONES[0].lower()}", "model": "large", "labels": "public"},
                "expect": {"infer": {"permitted": [backend(0)]}},
            }
        ],
    }
    return Files(
        {
            name: (value if isinstance(value, str) else json.dumps(value)).encode()
            for name, value in content.items()
        }
    )


def backend(number: int) -> str:
    return f"backend-{number:02}"


def places() -> list[dict[str, Any]]:
    models = {model: model for model in MODELS}
    found: list[dict[str, Any]] = [
        {
            "id": backend(number),
            "kind": "openai",
            "country": ZONES[number % 40],
            "operator": "self",
            "models": models,
        }
        for number in range(BACKENDS)
    ]
    for kind in ("gateway", "redis", "audit", "log"):
        found += [
            {"id": f"{kind}-{zone.lower()}", "kind": kind, "country": zone, "operator": "self"}
            for zone in ZONES[:4]
        ]
    return found


def rules() -> list[dict[str, Any]]:
    """One for each thing, that tells it apart from every other of its kind; most at half of all places."""

    def half(number: int) -> list[str]:
        return [ZONES[(number + step) % 40] for step in range(20)]

    def two(number: int) -> list[str]:
        return [CATEGORIES[number % 12], CATEGORIES[(number * 7 + 5) % 12]]

    found: list[dict[str, Any]] = [
        {
            "id": f"of-{zone.lower()}",
            "forbid": ["infer", "cache", "log"],
            "when": {"tenant_in": zone, "labels_any": two(number)},
            "unless": {"place_in": [zone, *half(number)]},
        }
        for number, zone in enumerate(ZONES)
    ]
    found += [
        {
            "id": f"of-{backend(number)}",
            "forbid": ["infer"],
            "when": {
                "place_in": backend(number),
                "labels_all": two(number),
                "sensitivity_at_least": SCALE[number % 4],
            },
        }
        for number in range(BACKENDS)
    ]
    found += [
        {
            "id": f"of-{category}",
            "forbid": ["cache", "log"],
            "when": {"labels_any": [category]},
            "unless": {"place_in": half(number)},
        }
        for number, category in enumerate(CATEGORIES)
    ]
    found += [
        {
            "id": f"of-{word}",
            "forbid": ["log"],
            "when": {"sensitivity_at_least": word, "place_in": half(number)},
        }
        for number, word in enumerate(SCALE[1:])
    ]
    for key, values in (("purpose_in", PURPOSES), ("model_in", MODELS)):
        found += [
            {
                "id": f"of-{value}",
                "forbid": ["infer"],
                "when": {key: value, "labels_all": two(number + 3)},
                "unless": {"place_in": half(number * 9)},
            }
            for number, value in enumerate(values)
        ]
    return [*found, {"id": "all", "permit": ["infer", "cache", "log", "record"]}]


def claims() -> list[dict[str, Any]]:
    """Some that hold and some that do not, one of them only for requests that carry nearly everything."""
    found: list[dict[str, Any]] = [
        {
            "id": f"of-{zone.lower()}",
            "never": ["infer", "cache", "log"],
            "when": {"tenant_in": zone, "labels_any": [CATEGORIES[number % 12]]},
            "outside": {"place_in": [zone, *(ZONES[(number + step) % 40] for step in range(20))]},
        }
        for number, zone in enumerate(ZONES)
    ]
    found += [
        {"id": "cached-nowhere", "never": ["cache", "log"], "when": {"labels_all": CATEGORIES[:9]}},
        {"id": "public-is-answered", "always": "infer", "when": {"labels_at_most": "public"}},
        {"id": "all-is-recorded", "always": "record"},
        {"id": "all-is-answered", "always": "infer"},
        {"id": "answered-at-home", "always": "infer", "at_least_one": {"place_in": ZONES[:9]}},
    ]
    return [{"basis": "bench", **claim} for claim in found]


def measure() -> Mapping[str, Any]:
    files = large_bundle()
    began_s = time.perf_counter()
    problems = prove_apart(files, TIMEOUT_S)
    process_s = time.perf_counter() - began_s
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    began_s = time.perf_counter()
    loaded = compile_files(files)
    compile_s = time.perf_counter() - began_s
    proof = prove(loaded.bundle, loaded.claims)
    began_s = time.perf_counter()
    entrances = entrances_of(loaded.bundle)
    entrances_s = time.perf_counter() - began_s
    requests = requests_of(loaded.bundle, loaded.claims)
    return {
        "bound_s": BOUND_S,
        "process_s": round(process_s, 2),
        "within_bound": process_s <= BOUND_S,
        "process_peak_mib": round(peak_mib),
        "load_and_antitone_s": round(compile_s, 2),
        "proof_s": round(proof.took_s, 2),
        "entrances_s": round(entrances_s, 2),
        "classes": proof.classes,
        "tenants_told_apart": len(requests.whos),
        "purposes": len(requests.purposes),
        "models": len(requests.models),
        "label_sets": len(loaded.bundle.table.labels),
        "label_sets_told_apart": len(requests.distinct_points([])),
        "backends": BACKENDS,
        "places": len(loaded.bundle.places),
        "rules": len(loaded.bundle.rules),
        "claims": len(loaded.claims),
        "claims_that_fail": len(problems),
        "groups_that_entrances_cannot_serve": sum(len(entrance.unserved) for entrance in entrances),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
