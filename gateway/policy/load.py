"""Loads a bundle: read once, checked, compiled, its examples run, its claims proven."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from gateway.detect.rules import DetectorRules
from gateway.policy.antitone import find_witness
from gateway.policy.bundle import Bundle
from gateway.policy.claims import Claim
from gateway.policy.compile import compile_table
from gateway.policy.geography import aws_regions
from gateway.policy.problems import PolicyClaimsFailed, PolicyInvalid, PolicyTestsFailed, Problem
from gateway.policy.proof import prove
from gateway.policy.rules import RESERVED_RULE_IDS
from gateway.policy.runner import run_cases
from gateway.policy.source import cases as cases_file
from gateway.policy.source import residency
from gateway.policy.source.cases import Case, CasesFile, build_cases
from gateway.policy.source.check import check
from gateway.policy.source.claims import ClaimsFile, build_claims
from gateway.policy.source.detectors import DetectorsFile, build_detectors
from gateway.policy.source.directory import ADOPTED, Files, read_directory
from gateway.policy.source.document import Document, parse_document
from gateway.policy.source.packs import Pack, PackFile, build_packs, only_forbids
from gateway.policy.source.places import PlacesFile, build_places
from gateway.policy.source.residency import ResidencyFile, build_rules
from gateway.policy.source.routes import RoutesFile, build_routes
from gateway.policy.source.tenants import TenantsFile, build_tenants
from gateway.policy.source.vocabulary import BundleFile, build_vocabulary
from gateway.policy.source.zones import ZonesFile, build_geography

Model = TypeVar("Model", bound=BaseModel)
Parse = Callable[[str, bytes], Document]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A compiled bundle with its examples, which have not run, its claims, which are not proven, and the
    packs that it has adopted, whose rules and claims are among its own."""

    bundle: Bundle
    cases: tuple[Case, ...]
    claims: tuple[Claim, ...]
    packs: tuple[Pack, ...] = ()


Prove = Callable[[Files, Loaded], tuple[Problem, ...]]


def prove_here(files: Files, loaded: Loaded) -> tuple[Problem, ...]:
    """A problem for each claim that does not hold; the proof runs in this thread."""
    return prove(loaded.bundle, loaded.claims).problems()


def load_bundle(directory: Path, find_broken: Prove = prove_here) -> Bundle:
    """The bundle in `directory`, with every check passed.

    Raises PolicyInvalid; PolicyTestsFailed when one of its own examples does not hold; PolicyClaimsFailed
    when `find_broken` finds a claim that does not.
    """
    return load_files(read_directory(directory), find_broken).bundle


def load_files(files: Files, find_broken: Prove = prove_here) -> Loaded:
    """The bundle in these files, with every check passed. Raises what `load_bundle` does."""
    loaded = compile_files(files)
    run = run_cases(loaded.bundle, loaded.cases)
    if not run.passed:
        raise PolicyTestsFailed(run.failures())
    if problems := find_broken(files, loaded):
        raise PolicyClaimsFailed(problems)
    return loaded


def compile_files(files: Files, parse: Parse = parse_document) -> Loaded:
    """The bundle in these files, checked and compiled; its examples are read, but not run.

    `parse` reads one file; whoever loads much the same files again and again may pass one that remembers.
    Raises PolicyInvalid with everything that is wrong, up to the first stage that cannot go on.
    """
    problems: list[Problem] = []
    documents: dict[str, Document] = {}
    for name in sorted(files.content):
        try:
            documents[name] = parse(name, files.content[name])
        except PolicyInvalid as error:
            problems += error.problems

    def read(name: str, model: type[Model]) -> Model | None:
        if name not in documents:
            return None
        value, found = check(documents[name], model)
        problems.extend(found)
        return value

    bundle_file = read("bundle.yaml", BundleFile)
    zones = read("zones.yaml", ZonesFile)
    places_file = read("places.yaml", PlacesFile)
    tenants_file = read("tenants.yaml", TenantsFile)
    routes_file = read("routes.yaml", RoutesFile)
    own = ("", *(f"{ADOPTED}/{pack}/" for pack in files.packs()))  # the bundle's own rules are named first
    rule_files = [
        (name, read(name, ResidencyFile)) for folder in own for name in files.of_folder(f"{folder}residency")
    ]
    claim_files = [(f"{folder}claims.yaml", read(f"{folder}claims.yaml", ClaimsFile)) for folder in own]
    pack_files = [(f"{folder}pack.yaml", read(f"{folder}pack.yaml", PackFile)) for folder in own[1:]]
    detectors_file = read("detectors.yaml", DetectorsFile)
    case_files = [(name, read(name, CasesFile)) for name in files.of_folder("tests")]
    # The order of these stages is the order of what depends on what: each one names things of those before.
    if problems or not (bundle_file and zones and places_file and tenants_file and routes_file):
        raise PolicyInvalid(problems)
    aws = aws_regions()
    vocabulary, words = build_vocabulary(documents["bundle.yaml"], bundle_file)
    geography, where = build_geography(documents["zones.yaml"], zones, aws)
    packs, lacking = build_packs(
        [(documents[name], file) for name, file in pack_files if file is not None], vocabulary, geography
    )
    stop_at([*words, *where, *lacking])
    places, found = build_places(documents["places.yaml"], places_file, geography, aws)
    stop_at(found)
    routes, route_problems = build_routes(documents["routes.yaml"], routes_file, places, geography)
    tenants, keys, callers, tenant_problems = build_tenants(
        documents["tenants.yaml"], tenants_file, vocabulary, geography, routes.models
    )
    known = residency.Known(vocabulary, geography, places, tenants, routes.models)
    rules, rule_problems = build_rules(
        [(documents[name], file) for name, file in rule_files if file is not None], known
    )
    claims, claim_problems = build_claims(
        [(documents[name], file) for name, file in claim_files if file is not None], known
    )
    foreign = [
        problem
        for name, file in (*rule_files, *claim_files)
        if file is not None and name.startswith(f"{ADOPTED}/")
        for problem in only_forbids(
            documents[name],
            name.split("/")[1],
            [(entry.id, getattr(entry, "permit", None) is not None) for entry in file.root],
        )
    ]
    detectors: DetectorRules | None = None
    detector_problems: list[Problem] = []
    if detectors_file is not None:
        name = "detectors.yaml"
        detectors, detector_problems = build_detectors(
            documents[name], detectors_file, known, files.content[name]
        )
    stop_at(
        [*route_problems, *tenant_problems, *rule_problems, *claim_problems, *foreign, *detector_problems]
    )
    table = compile_table(
        rules,
        places,
        vocabulary,
        geography.zones,
        [(tenant.id, tenant.zone) for tenant in tenants.values()],
        routes.models,
    )
    witness = find_witness(table, vocabulary)
    if witness is not None:
        message = f"more labels would permit more: {witness.text()}"
        hint = "a permit must not depend on labels; permit without them, and forbid what labels rule out"
        raise PolicyInvalid([Problem(witness.file, witness.line, None, message, hint)])
    bundle = Bundle(
        revision=files.revision,
        serial=bundle_file.serial,
        vocabulary=vocabulary,
        geography=geography,
        places=places,
        tenants=tenants,
        keys=keys,
        callers=callers,
        rules=rules,
        routes=routes,
        table=table,
        marked_from_bytes=bundle_file.marked_from_bytes,
        detectors=detectors,
    )
    cases, case_problems = build_cases(
        [(documents[name], file) for name, file in case_files if file is not None],
        cases_file.Known(
            vocabulary=vocabulary,
            places=places,
            tenants={tenant.id: tenant.caller for tenant in tenants.values()},
            keys={keys[sha256]: caller for sha256, caller in callers.items()},
            routes=routes,
            rules={rule.id for rule in rules} | RESERVED_RULE_IDS,
        ),
    )
    stop_at(case_problems)
    return Loaded(bundle, cases, claims, packs)


def stop_at(problems: list[Problem]) -> None:
    """Raises PolicyInvalid when there are any."""
    if problems:
        raise PolicyInvalid(problems)
