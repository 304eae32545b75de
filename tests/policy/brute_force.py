"""What a claim means: the reference semantics, asked about every single request.

Shares with the proof only `decide` and its conditions, which the suite holds against Cedar.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.facts import Facts
from gateway.labels import Labels
from gateway.places import BACKEND_KINDS, GATEWAY_KIND, Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.claims import Always, Claim, Never
from gateway.policy.decide import decide, facts_meet, place_meets
from gateway.policy.rules import PlaceCondition

Key = tuple[int, int, tuple[str, ...], tuple[bool, str, str], str, str, int, str]


@dataclass(frozen=True, slots=True)
class Broken:
    """The smallest request that breaks a claim. `rules` are the rules that decide where it is broken."""

    tenant: str
    zone: str
    purpose: str
    model: str
    labels: Labels
    action: Action
    place: str | None
    entrance: str | None
    rules: frozenset[tuple[Action, str, str]]


class BruteForce:
    """Every request under a bundle and what the rules say of it, each decided one by one."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.entrances = [p.id for p in self.sorted_places() if p.kind == GATEWAY_KIND]
        self.requests = list(self.every_request())
        self.decided = {facts: self.decide_all(facts) for facts in self.requests}

    def sorted_places(self) -> list[Place]:
        return sorted(self.bundle.places.values(), key=lambda place: place.id)

    def every_request(self) -> Iterator[Facts]:
        tenants = [(tenant.id, tenant.zone) for tenant in self.bundle.tenants.values()]
        tenants += [("", zone) for zone in self.bundle.geography.zones]
        vocabulary = self.bundle.vocabulary
        subsets = [
            frozenset(chosen)
            for count in range(len(vocabulary.categories) + 1)
            for chosen in itertools.combinations(vocabulary.categories, count)
        ]
        for (tenant, zone), purpose, model, sensitivity, categories in itertools.product(
            tenants, vocabulary.purposes, self.bundle.routes.models, vocabulary.scale, subsets
        ):
            yield Facts(tenant, zone, purpose, model, Labels(sensitivity, categories))

    def decide_all(self, facts: Facts) -> dict[tuple[Action, str], tuple[bool, str]]:
        """What decides at each place that could do the action for this model at all."""
        bundle = self.bundle
        return {
            (action, place.id): decide(
                facts, place, action, bundle.rules, bundle.vocabulary, bundle.geography.zones
            )
            for place in self.sorted_places()
            for action in Action
            if place.offers(action, facts.model)
        }

    def smallest(self, claim: Claim) -> Broken | None:
        """The smallest request that breaks the claim; None when it holds."""
        found = [
            pair for facts in self.requests if self.about(claim, facts) for pair in self.broken(claim, facts)
        ]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def about(self, claim: Claim, facts: Facts) -> bool:
        vocabulary = self.bundle.vocabulary
        return facts_meet(claim.facts, facts, vocabulary, self.bundle.geography.zones) and (
            claim.at_most is None or vocabulary.within(facts.labels, claim.at_most)
        )

    def broken(self, claim: Claim, facts: Facts) -> Iterator[tuple[Key, Broken]]:
        if isinstance(claim.says, Never):
            yield from self.broken_never(claim.says, facts)
        else:
            yield from self.broken_always(claim.says, facts)

    def broken_never(self, says: Never, facts: Facts) -> Iterator[tuple[Key, Broken]]:
        decided = self.decided[facts]
        for (action, place_id), (allowed, rule) in decided.items():
            place = self.bundle.places[place_id]
            if (
                allowed
                and action in says.actions
                and place_meets(says.at, place)
                and not (meets_something(says.outside, place))
            ):
                door = next((door for door in self.entrances if decided[Action.INFER, door][0]), None)
                rules = frozenset({(action, place_id, rule)})
                yield self.pair(facts, action, place_id, door, rules)

    def broken_always(self, says: Always, facts: Facts) -> Iterator[tuple[Key, Broken]]:
        decided, places = self.decided[facts], self.bundle.places
        able = [
            places[place]
            for action, place in decided
            if action is says.action and (action is not Action.INFER or places[place].kind in BACKEND_KINDS)
        ]
        permitted = {place.id for place in able if decided[says.action, place.id][0]}
        if any(meets_something(says.denied_at, places[place]) for place in permitted):
            return
        if not says.denied_outside.empty and any(
            not place_meets(says.denied_outside, places[place]) for place in permitted
        ):
            return
        candidates = [place.id for place in able if place_meets(says.at_least_one, place)]
        sinks = [place for action, place in decided if action is Action.RECORD]
        doors: list[str | None] = [None]
        if says.action is Action.INFER and self.entrances:
            doors = [door for door in self.entrances if place_meets(says.entering_at, places[door])]
        for door in doors:
            needs = [(says.action, candidates)]
            if says.action is Action.INFER:
                needs.append((Action.RECORD, sinks))
            if door is not None:
                needs.append((Action.INFER, [door]))
            against = frozenset(
                (action, place, decided[action, place][1])
                for action, any_of in needs
                if not any(decided[action, one][0] for one in any_of)
                for place in any_of
            )
            if any(not any(decided[action, one][0] for one in any_of) for action, any_of in needs):
                yield self.pair(facts, says.action, None, door, against)

    def pair(
        self,
        facts: Facts,
        action: Action,
        place: str | None,
        door: str | None,
        rules: frozenset[tuple[Action, str, str]],
    ) -> tuple[Key, Broken]:
        names = tuple(sorted(facts.labels.categories))
        rank = self.bundle.vocabulary.rank(facts.labels.sensitivity)
        who = (facts.tenant == "", facts.tenant, facts.zone)
        where = place if place is not None else door or ""
        key = (len(names), rank, names, who, facts.purpose, facts.model, list(Action).index(action), where)
        return key, Broken(
            facts.tenant, facts.zone, facts.purpose, facts.model, facts.labels, action, place, door, rules
        )


def meets_something(condition: PlaceCondition, place: Place) -> bool:
    """Whether a condition that says something holds."""
    return not condition.empty and place_meets(condition, place)
