"""What in a bundle does nothing: it loads and holds, but somebody may rely on a line that decides nothing.

All by going through all cases, not by looking at how a line is written. What an adopted pack brings is not
held against the bundle: a pack also guards against places and tenants that are still to come.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway.places import BACKEND_KINDS, Action
from gateway.policy.bundle import Bundle
from gateway.policy.claims import Always
from gateway.policy.lattice import ones
from gateway.policy.load import Loaded
from gateway.policy.problems import Problem
from gateway.policy.proof import claims_about
from gateway.policy.requests import Requests, requests_of
from gateway.policy.rules import RESERVED_RULE_IDS, Rule
from gateway.policy.runner import run_cases
from gateway.policy.source.cases import expectations
from gateway.policy.source.directory import ADOPTED, Files
from gateway.policy.source.document import Document, parse_document


class Kind(StrEnum):
    """What a finding is about."""

    RULE = "rule-never-decides"
    HOP = "hop-never-permitted"
    ROUTE = "route-never-used"
    LABEL = "label-changes-nothing"
    EXAMPLE = "example-exercises-nothing"
    CLAIM = "claim-about-nothing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line that does nothing, with where it is and what to do about it."""

    kind: Kind
    problem: Problem

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {"kind": self.kind.value, **self.problem.wire()}


def lint(files: Files, loaded: Loaded) -> tuple[Finding, ...]:
    """Every finding, in the order of kinds, then of files."""
    requests = requests_of(loaded.bundle, loaded.claims)
    found: tuple[tuple[Kind, Iterable[Problem]], ...] = (
        (Kind.RULE, idle_rules(requests)),
        (Kind.HOP, idle_hops(files, requests)),
        (Kind.ROUTE, idle_routes(files, loaded.bundle)),
        (Kind.LABEL, idle_labels(files, loaded)),
        (Kind.EXAMPLE, idle_examples(loaded)),
        (Kind.CLAIM, idle_claims(requests, loaded)),
    )
    return tuple(Finding(kind, problem) for kind, problems in found for problem in sorted(problems))


def idle_rules(requests: Requests) -> Iterator[Problem]:
    """Rules that decide about no action of no request at no place: what they say has no effect."""
    deciding, against = deciders(requests)
    for number, rule in enumerate(requests.bundle.rules):
        if deciding >> number & 1 or rule.file.startswith(f"{ADOPTED}/"):
            continue
        others = [f"`{requests.bundle.rules[other].id}`" for other in ones(against[number])]
        if others:
            said = f"wherever it applies, {' or '.join(others)} decides"
            hint = "remove it, or correct the condition of one of them"
        else:
            said = nowhere(rule, requests)
            hint = "correct its condition, or remove it"
        yield Problem(rule.file, rule.line, None, f"the rule `{rule.id}` never decides: {said}", hint)


def deciders(requests: Requests) -> tuple[int, list[int]]:
    """The rules that decide somewhere, and for each rule those that decide where it applies too."""
    table = requests.bundle.table
    order = sorted(range(len(table.rules)), key=lambda number: not table.forbids >> number & 1)
    deciding, against = 0, [0] * len(table.rules)
    seen: set[int] = set()
    for asked in requests.asked():
        for cell in ones(requests.usable(asked, entrances=True)):
            applying = asked.rules & requests.naming[cell]
            if applying in seen:
                continue
            seen.add(applying)
            left = requests.lattice.everything
            taken: list[tuple[int, int]] = []
            for number in order:
                if not applying >> number & 1:
                    continue
                points = requests.by_labels[number]
                for other, decided in taken:
                    if points & decided:
                        against[number] |= 1 << other
                if decides := points & left:
                    deciding |= 1 << number
                    taken.append((number, decides))
                    left &= ~points
    return deciding, against


def nowhere(rule: Rule, requests: Requests) -> str:
    """Why a rule applies to nothing at all."""
    bundle = requests.bundle
    about = bundle.table.masks[bundle.rules.index(rule)]
    every = 0
    for model in bundle.table.models:
        every |= bundle.table.usable[model]
    if not about & (every | bundle.table.gateways):
        actions = ", ".join(f"`{action}`" for action in Action if action in rule.actions)
        return f"no place that it is about does {actions} at all"
    return "no request meets its condition at a place that it is about"


def idle_hops(files: Files, requests: Requests) -> Iterator[Problem]:
    """Hops where no request that takes the route is ever permitted an answer."""
    bundle = requests.bundle
    document = routes_document(files)
    for number, route in enumerate(bundle.routes.routes):
        for tier, hops in enumerate(route.tiers):
            for at, hop in enumerate(hops):
                place = bundle.places[hop.place]
                models = [model for model in sorted(route.models) if model in place.models]
                if place.kind in BACKEND_KINDS and not any(
                    permitted_somewhere(requests, hop.place, model, takers(bundle, number, model))
                    for model in models
                ):
                    yield document.problem(
                        ("routes", number, "tiers", tier, at, "place"),
                        f"the hop `{hop.place}` of the route `{route.id}` is never permitted "
                        "for any request that takes the route",
                        "remove the hop, or permit it in `residency/`",
                    )


def takers(bundle: Bundle, number: int, model: str) -> frozenset[str]:
    """The countries whose tenants take this route for a model."""
    return frozenset(
        zone
        for zone in bundle.geography.zones
        if bundle.routes.for_model(model, zone) is bundle.routes.routes[number]
    )


def permitted_somewhere(requests: Requests, place: str, model: str, zones: frozenset[str]) -> bool:
    """Whether `infer` is permitted at a place for some request of a tenant in one of these countries."""
    cell = requests.cell(Action.INFER, place)
    return any(
        model in asked.model.members
        and any(member.zone in zones for member in asked.who.members)
        and requests.allowed(cell, asked)
        for asked in requests.asked()
    )


def idle_routes(files: Files, bundle: Bundle) -> Iterator[Problem]:
    """Routes that no tenant takes, because earlier ones take them all."""
    document = routes_document(files)
    for number, route in enumerate(bundle.routes.routes):
        if any(takers(bundle, number, model) for model in route.models):
            continue
        zones = bundle.geography.zones if route.tenant_in is None else route.tenant_in
        earlier = {
            bundle.routes.for_model(model, zone).id for model, zone in itertools.product(route.models, zones)
        }
        names = " and ".join(f"`{one}`" for one in sorted(earlier))
        yield document.problem(
            ("routes", number, "id"),
            f"the route `{route.id}` is never used: {names} before it takes all of its requests",
            "put it before them, or remove it",
        )


def idle_labels(files: Files, loaded: Loaded) -> Iterator[Problem]:
    """Labels that no rule mentions, and purposes that neither rule nor claim nor tenant does.

    The lowest word of the scale needs no rule: it is what is left. So does a purpose that no rule mentions,
    when somebody has it: it is what the rules about other purposes do not touch.
    """
    bundle = loaded.bundle
    document = parse_document("bundle.yaml", files.content["bundle.yaml"])
    vocabulary, facts = bundle.vocabulary, [rule.facts for rule in bundle.rules]
    mentioned = {name for one in facts for name in (*(one.labels_any or ()), *(one.labels_all or ()))}
    ranks = {one.sensitivity_at_least for one in facts}
    purposes = {name for one in facts for name in one.purpose_in or ()}
    purposes |= {name for claim in loaded.claims for name in claim.facts.purpose_in or ()}
    purposes |= {tenant.caller.purpose for tenant in bundle.tenants.values()}
    purposes |= {caller.purpose for caller in bundle.callers.values()}
    unused = [
        *(("sensitivity", word, "rule") for word in vocabulary.scale[1:] if word not in ranks),
        *(("categories", word, "rule") for word in sorted(vocabulary.categories - mentioned)),
        *(("purposes", word, "rule, claim or tenant") for word in sorted(vocabulary.purposes - purposes)),
    ]
    for kind, word, what in unused:
        at = document.data["vocabulary"][kind].index(word)
        yield document.problem(
            ("vocabulary", kind, at),
            f"`{word}` changes nothing: no {what} mentions it",
            "write the rule that it is for, or remove the word",
        )


def idle_examples(loaded: Loaded) -> Iterator[Problem]:
    """Examples in which no written rule decides, and those of which another says all and more."""
    run = run_cases(loaded.bundle, loaded.cases)
    for result in run.results:
        case = result.case
        if result.decided_by <= RESERVED_RULE_IDS:
            message = f"no rule decides in the example `{case.name}`"
            hint = "expect something that a rule permits or forbids, or remove it"
            yield Problem(case.file, case.line, None, message, hint)
    for number, case in enumerate(loaded.cases):
        for other_number, other in enumerate(loaded.cases):
            same = expectations(case) == expectations(other)
            if case.request == other.request and (
                expectations(case) < expectations(other) or (same and other_number < number)
            ):
                message = f"the example `{case.name}` says nothing that `{other.name}` does not say"
                yield Problem(case.file, case.line, None, message, "remove it, or expect something else")
                break


def idle_claims(requests: Requests, loaded: Loaded) -> Iterator[Problem]:
    """Claims that no request could ever break, because they speak of none."""
    for claim, about in claims_about(requests, loaded.claims):
        if about or claim.file.startswith(f"{ADOPTED}/"):
            continue
        says = claim.says
        conditional = isinstance(says, Always) and not (says.denied_at.empty and says.denied_outside.empty)
        why = "none that meets `when` is denied there" if conditional else "none meets `when`"
        message = f"the claim `{claim.id}` speaks of no request: {why}"
        yield Problem(claim.file, claim.line, None, message, "widen it, or remove it")


def routes_document(files: Files) -> Document:
    return parse_document("routes.yaml", files.content["routes.yaml"])
