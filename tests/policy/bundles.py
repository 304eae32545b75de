"""Bundles for the tests: the default one, edits of it, one that uses every condition, and made-up ones."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from gateway.facts import Caller, Facts, Limits
from gateway.labels import Vocabulary
from gateway.places import Place
from gateway.policy.bundle import Bundle, Tenant
from gateway.policy.compile import Table, compile_table, every_labels
from gateway.policy.geography import Geography
from gateway.policy.load import Loaded, compile_files
from gateway.policy.problems import PolicyInvalid, Problem
from gateway.policy.routes import Hop, Route, Routes
from gateway.policy.rules import Rule
from gateway.policy.source.directory import Files, read_directory
from gateway.policy.source.document import Document, parse_document

POLICIES = Path(__file__).parents[2] / "policies"


def default_files() -> dict[str, bytes]:
    """The files of the default bundle."""
    return dict(read_directory(POLICIES).content)


def loaded_default() -> Loaded:
    return compiled(default_files())


@functools.cache
def parsed(name: str, content: bytes) -> Document:
    """A document, read once however many bundles hold it: reading YAML is most of a load."""
    return parse_document(name, content)


def compiled(files: Mapping[str, bytes]) -> Loaded:
    """The bundle in these files; its examples have not run. Raises PolicyInvalid."""
    return compile_files(Files(files), parsed)


def edited(name: str, old: str, new: str) -> dict[str, bytes]:
    """The default bundle with one passage of one file replaced; the passage must be there once."""
    files = default_files()
    text = files[name].decode()
    assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
    files[name] = text.replace(old, new).encode()
    return files


def problems_of(files: Mapping[str, bytes]) -> tuple[Problem, ...]:
    """What is wrong with these files; fails when nothing is."""
    try:
        compiled(files)
    except PolicyInvalid as error:
        return error.problems
    raise AssertionError("the bundle loaded")


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """Writes files as a bundle directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def every_condition() -> Bundle:
    """A bundle whose rules use every key of the condition language, alone and together."""
    files = default_files()
    for name in [name for name in files if "/" in name]:
        del files[name]
    files["residency/all.yaml"] = EVERY_CONDITION.encode()
    files["tests/all.yaml"] = EVERY_CONDITION_TEST.encode()
    files["places.yaml"] += EXTRA_PLACES.encode()
    files["zones.yaml"] = files["zones.yaml"].replace(b"\noperators:\n", EXTRA_ATTESTATION.encode())
    return compiled(files).bundle


EXTRA_PLACES = """
  - id: gpu-at-aws
    kind: engine
    country: IE
    operator: aws
    attested: [audited]
    models: {gpt-oss-20b: gpt-oss-20b}

  - id: second-engine
    kind: engine
    country: NO
    operator: self
    attested: [on-premises, audited]
    models: {gpt-oss-120b: gpt-oss-120b}

  - id: traces-abroad
    kind: trace
    country: CH
    operator: self

  - id: rented-traces-abroad
    kind: trace
    country: NO
    operator: aws
"""

EXTRA_ATTESTATION = """
  audited: {means: somebody came and looked, source: own-statement}

operators:
"""

EVERY_CONDITION = """
- id: f-labels-all
  forbid: [infer, log]
  when: {labels_all: [personal, financial]}
  unless: {attested: on-premises}
- id: f-labels-any
  forbid: [cache, record]
  when: {labels_any: [health, financial], tenant_in: [EFTA, acme-de]}
  unless: {place_in: [DE, store-redis], operator_under: us-cloud-act}
- id: f-sensitivity
  forbid: [infer]
  when: {sensitivity_at_least: confidential, operator_under: us-cloud-act}
- id: f-purpose
  forbid: [infer]
  when: {purpose_in: [analytics, care], place_in: [US, GB]}
  unless: {place_in: bedrock-ohio}
- id: f-model
  forbid: [infer]
  when: {model_in: gpt-oss-120b, tenant_in: [US, CH]}
  unless: {attested: on-premises, place_in: EU}
- id: f-log
  forbid: [log]
  when: {sensitivity_at_least: internal, tenant_in: EEA}
  unless: {place_in: EU}
- id: f-secret
  forbid: [infer, cache, log, record]
  when: {sensitivity_at_least: secret, labels_any: [personal]}
  unless: {attested: on-premises}
- id: p-premises
  permit: [infer, cache, log, record]
  when: {attested: on-premises}
- id: f-audited
  forbid: [infer]
  when: {sensitivity_at_least: internal, purpose_in: care}
  unless: {attested: [on-premises, audited]}
- id: p-everywhere
  permit: [infer]
- id: p-abroad
  permit: [log, record]
  when: {place_in: EFTA}
  unless: {operator_under: [us-fisa-702, prc-data-security-law]}
- id: p-purpose
  permit: [record, cache]
  when: {purpose_in: [general], tenant_in: [EEA, globex-us], place_in: [EU, traces-abroad]}
"""

EVERY_CONDITION_TEST = """
- name: something is permitted
  request: {tenant: demo, model: gpt-oss-20b}
  expect: {infer: {permitted: [local-engine]}}
"""


def with_tenant_in_every_zone(bundle: Bundle) -> Bundle:
    """The bundle with one more tenant in each country of the world, so that facts exist for every class."""
    (any_tenant, *_) = bundle.tenants.values()
    tenants = dict(bundle.tenants)
    for country in bundle.geography.zones:
        name = f"any-{country.lower()}"
        tenants[name] = Tenant(name, country, replace(any_tenant.caller, tenant=name, zone=country))
    bundle = replace(bundle, tenants=MappingProxyType(tenants))
    return replace(bundle, table=table_of(bundle))


def table_of(bundle: Bundle, listed_max: int = 100_000) -> Table:
    """The table of a bundle, compiled anew."""
    return compile_table(
        bundle.rules,
        bundle.places,
        bundle.vocabulary,
        bundle.geography.zones,
        [(tenant.id, tenant.zone) for tenant in bundle.tenants.values()],
        bundle.routes.models,
        listed_max,
    )


def every_facts(bundle: Bundle, tenants: Iterable[str]) -> Iterator[Facts]:
    """Every combination of these tenants with every purpose, model and point of the lattice of labels."""
    for tenant, purpose, model, labels in itertools.product(
        tenants,
        sorted(bundle.vocabulary.purposes),
        sorted(bundle.routes.models),
        every_labels(bundle.vocabulary),
    ):
        yield Facts(tenant, bundle.tenants[tenant].zone, purpose, model, labels)


def one_of_each_class(bundle: Bundle) -> list[Facts]:
    """One example of each combination of tenants, purposes, models and labels that the rules tell apart.

    This is finer than the sets of rules that apply: two facts are together only when no condition on any
    axis sees a difference between them, so that a condition which a bug drops is missed nowhere. Tenants that
    are not named after their country are all in it: a rule may name them by id.
    """
    table = bundle.table
    tenants = {mask: tenant for tenant, mask in table.tenants.items()}
    named = {tenant for tenant in table.tenants if not tenant[0].startswith("any-")}
    purposes = {mask: purpose for purpose, mask in table.purposes.items()}
    labels = {mask: one for one, mask in table.labels.items()}
    return [
        Facts(tenant, zone, purpose, model, one)
        for (tenant, zone), purpose, model, one in itertools.product(
            sorted({*tenants.values(), *named}), purposes.values(), table.models, labels.values()
        )
    ]


def bundle_of(
    rules: tuple[Rule, ...],
    places: Iterable[Place],
    vocabulary: Vocabulary,
    zones: Mapping[str, frozenset[str]],
    models: frozenset[str],
    listed_max: int = 100_000,
) -> Bundle:
    """A made-up bundle with one tenant, `in-xx`, in each of its countries."""
    by_id = {place.id: place for place in places}
    tenants = {}
    for country in zones:
        caller = Caller(
            tenant=f"in-{country.lower()}",
            key_id="",
            zone=country,
            purpose=sorted(vocabulary.purposes)[0],
            labels=vocabulary.lowest,
            floor=vocabulary.lowest,
            ceiling=vocabulary.highest,
            limits=Limits(),
            models=None,
        )
        tenants[caller.tenant] = Tenant(caller.tenant, country, caller)
    unions = frozenset(union for names in zones.values() for union in names)
    geography = Geography(
        zones=zones,
        unions={union: frozenset(c for c, names in zones.items() if union in names) for union in unions},
        regions={},
        operators={},
        partition_operators={},
        regimes=frozenset(),
        attestations={},
        serving={},
    )
    route = Route("all", models, ((Hop("a"),),), 1, 1.0, 1.0)
    table = compile_table(
        rules, by_id, vocabulary, zones, [(t.id, t.zone) for t in tenants.values()], models, listed_max
    )
    return Bundle(
        revision="sha256:made-up",
        serial=1,
        vocabulary=vocabulary,
        geography=geography,
        places=by_id,
        tenants=tenants,
        keys={},
        callers={},
        rules=rules,
        routes=Routes((route,), models, {}),
        table=table,
    )
