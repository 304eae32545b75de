"""`tests/*.yaml`: examples of requests, with the expected outcome and the expected rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, RootModel
from pydantic.json_schema import WithJsonSchema

from gateway.facts import Caller, Facts, collect_facts
from gateway.labels import UnknownLabel, Vocabulary
from gateway.places import Action, Place
from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.routes import Routes, UnknownModel
from gateway.policy.source.check import Entry, Text, Words
from gateway.policy.source.document import Document, Path


def any_rule(value: Any) -> Any:
    """A list of places stands for a mapping whose rules are not checked."""
    return dict.fromkeys(value, "") if isinstance(value, list) else value


PlacesAndRules = Annotated[
    dict[str, str],
    Field(min_length=1),
    BeforeValidator(any_rule),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
            ]
        }
    ),
]


class RequestEntry(Entry):
    """What a caller sends. Without `labels`, the default of the tenant (or of the key) is assumed."""

    tenant: str
    key: str | None = None
    model: str
    purpose: str | None = None
    labels: Words | None = None


class OutcomeEntry(Entry):
    """What is expected of one action. `denied` names the rule of each place; `permitted` may."""

    permitted: PlacesAndRules | None = None
    exactly: Annotated[
        PlacesAndRules | None, Field(description="as `permitted`, and no other place is permitted")
    ] = None
    denied: Annotated[dict[str, str] | None, Field(min_length=1)] = None


class ExpectEntry(Entry):
    """What is expected, action by action."""

    infer: OutcomeEntry | None = None
    cache: OutcomeEntry | None = None
    log: OutcomeEntry | None = None
    record: OutcomeEntry | None = None


class CaseEntry(Entry):
    """One example."""

    name: Text
    request: RequestEntry
    expect: ExpectEntry


class CasesFile(RootModel[Annotated[list[CaseEntry], Field(min_length=1)]]):
    """A file of `tests/`"""


@dataclass(frozen=True, slots=True)
class Expected:
    """What one case says of one action at one place. An empty rule: any rule will do."""

    action: Action
    place: str
    allowed: bool
    rule: str
    line: int


@dataclass(frozen=True, slots=True)
class Case:
    """One example, ready to run. `request` is what is sent, `facts` what it carries; `exactly` holds, for an
    action, all the places that may be permitted."""

    name: str
    file: str
    line: int
    request: RequestEntry
    facts: Facts
    expected: tuple[Expected, ...]
    exactly: Mapping[Action, frozenset[str]]


def expectations(case: Case) -> frozenset[tuple[object, ...]]:
    """All that a case expects. A rule that it names is part of it."""
    found: set[tuple[object, ...]] = set()
    for one in case.expected:
        found.add((one.action, one.place, one.allowed))
        if one.rule:
            found.add((one.action, one.place, one.allowed, one.rule))
    return frozenset(found | {("exactly", action, places) for action, places in case.exactly.items()})


@dataclass(frozen=True, slots=True)
class Known:
    """What cases may name."""

    vocabulary: Vocabulary
    places: Mapping[str, Place]
    tenants: Mapping[str, Caller]
    keys: Mapping[tuple[str, str], Caller]
    routes: Routes
    rules: Collection[str]


def build_cases(
    files: list[tuple[Document, CasesFile]], known: Known
) -> tuple[tuple[Case, ...], list[Problem]]:
    """All cases in order."""
    cases: list[Case] = []
    problems: list[Problem] = []
    names: dict[str, str] = {}
    for document, file in files:
        for index, entry in enumerate(file.root):
            path: Path = (index,)
            line = document.mark((*path, "name")).line
            if entry.name in names:
                message = f"`{entry.name}` is already a case, at {names[entry.name]}"
                problems.append(document.problem((*path, "name"), message, "give each case its own name"))
            names[entry.name] = f"{document.file}:{line}"
            facts = facts_of(document, path, entry.request, known, problems)
            expected, exactly = expected_of(document, path, entry.expect, known, problems)
            if facts is not None:
                cases.append(Case(entry.name, document.file, line, entry.request, facts, expected, exactly))
    return tuple(cases), problems


def facts_of(
    document: Document, path: Path, entry: RequestEntry, known: Known, problems: list[Problem]
) -> Facts | None:
    """The facts of a case, collected just as those of a real request are."""
    at: Path = (*path, "request")
    caller = known.tenants.get(entry.tenant)
    if caller is None:
        message, hint = f"`{entry.tenant}` is not a known tenant", did_you_mean(entry.tenant, known.tenants)
        problems.append(document.problem((*at, "tenant"), message, hint))
        return None
    if entry.key is not None:
        with_key = known.keys.get((entry.tenant, entry.key))
        if with_key is None:
            own = [key for tenant, key in known.keys if tenant == entry.tenant]
            message = f"`{entry.key}` is not a key of `{entry.tenant}`"
            problems.append(document.problem((*at, "key"), message, did_you_mean(entry.key, own)))
            return None
        caller = with_key
    try:
        model = known.routes.canonical(entry.model)
    except UnknownModel as error:
        message, hint = f"`{entry.model}` is not a known model", did_you_mean(entry.model, error.known)
        problems.append(document.problem((*at, "model"), message, hint))
        return None
    if entry.purpose is not None and entry.purpose not in known.vocabulary.purposes:
        hint = did_you_mean(entry.purpose, known.vocabulary.purposes)
        message = f"`{entry.purpose}` is not a known purpose"
        problems.append(document.problem((*at, "purpose"), message, hint))
        return None
    try:
        header = None if entry.labels is None else known.vocabulary.from_names(entry.labels)
    except UnknownLabel as error:
        message, hint = (
            f"`{error.label}` is not a label of this bundle",
            did_you_mean(error.label, error.known),
        )
        problems.append(document.problem((*at, "labels"), message, hint))
        return None
    facts = collect_facts(caller, model, header, None, None, known.vocabulary)
    return Facts(facts.tenant, facts.zone, entry.purpose or facts.purpose, facts.model, facts.labels)


def expected_of(
    document: Document, path: Path, entry: ExpectEntry, known: Known, problems: list[Problem]
) -> tuple[tuple[Expected, ...], Mapping[Action, frozenset[str]]]:
    """What a case expects. A case that expects nothing is a problem."""
    expected: list[Expected] = []
    exactly: dict[Action, frozenset[str]] = {}
    for action in Action:
        wanted: OutcomeEntry | None = getattr(entry, action.value)
        if wanted is None:
            continue
        for key, allowed in (("permitted", True), ("exactly", True), ("denied", False)):
            for place, rule in (getattr(wanted, key) or {}).items():
                at: Path = (*path, "expect", action.value, key, place)
                if place not in known.places:
                    message, hint = f"`{place}` is not a known place", did_you_mean(place, known.places)
                    problems.append(document.problem(at, message, hint, key=True))
                if rule and rule not in known.rules:
                    message, hint = f"`{rule}` is not a known rule", did_you_mean(rule, known.rules)
                    problems.append(document.problem(at, message, hint))
                line = document.mark(at).line
                expected.append(Expected(action, place, allowed, rule, line))
        if wanted.exactly is not None:
            exactly[action] = frozenset(wanted.exactly)
    if not expected:
        message = "the case expects nothing"
        hint = "name places under `permitted` or `denied`"
        problems.append(document.problem((*path, "expect"), message, hint))
    return tuple(expected), exactly
