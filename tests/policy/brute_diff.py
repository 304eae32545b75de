"""What the difference of two bundles means: the reference, asked about every single request of both.

Shares with the comparison only `decide` and the way in which facts are collected.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.facts import Caller, Facts, above_ceiling, collect_facts
from gateway.labels import Labels, Vocabulary
from gateway.places import Action, Place
from gateway.policy.bundle import Bundle
from tests.policy.brute_force import BruteForce

Gain = tuple[
    str, str, str, str, Labels, Action, str
]  # tenant, country, purpose, model, labels, action, place


@dataclass(frozen=True, slots=True)
class Two:
    """Two bundles with every decision of both."""

    before: BruteForce
    after: BruteForce

    def gains(self) -> set[Gain]:
        """Everything that the later rules permit and the earlier ones do not."""
        return {
            (facts.tenant, facts.zone, facts.purpose, facts.model, facts.labels, action, place)
            for facts, decided in self.after.decided.items()
            for (action, place), (allowed, _) in decided.items()
            if allowed and not self.allowed_before(self.as_before(facts), action, place)
        }

    def as_before(self, facts: Facts) -> Facts:
        """The same request in the earlier bundle: the country of a tenant is what that says."""
        tenant = self.before.bundle.tenants.get(facts.tenant)
        zone = tenant.zone if tenant is not None else facts.zone
        return Facts(facts.tenant, zone, facts.purpose, facts.model, facts.labels)

    def allowed_before(self, facts: Facts, action: Action, place: str) -> bool:
        """Whether the earlier rules permit it, at the very same place."""
        return (
            self.here(place) is not None
            and self.here(place) == self.there(place)
            and self.before.decided.get(facts, {}).get((action, place), (False, ""))[0]
        )

    def here(self, place: str) -> tuple[object, ...] | None:
        return where(self.after.bundle.places.get(place))

    def there(self, place: str) -> tuple[object, ...] | None:
        return where(self.before.bundle.places.get(place))

    def rule(self, side: BruteForce, facts: Facts, action: Action, place: str) -> str | None:
        """What decides; None where the bundle lacks a word of the question."""
        found = side.decided.get(facts, {}).get((action, place))
        return None if found is None else found[1]


def where(place: Place | None) -> tuple[object, ...] | None:
    return None if place is None else (place.kind, place.country, place.operator, place.region)


def points(vocabulary: Vocabulary) -> list[Labels]:
    return [
        Labels(word, frozenset(chosen))
        for count in range(len(vocabulary.categories) + 1)
        for chosen in itertools.combinations(sorted(vocabulary.categories), count)
        for word in vocabulary.scale
    ]


@dataclass(frozen=True, slots=True)
class Sending:
    """One request of a caller. `taint` is what its conversation carried; `unreadable` that nobody knows."""

    tenant: str
    key: str
    header: Labels | None
    taint: Labels | None
    unreadable: bool
    model: str


def sendings(two: Two, taints: Iterable[Labels]) -> Iterator[Sending]:
    """Every request of every caller that the later bundle has, of conversations with these labels or none."""
    vocabulary = two.after.bundle.vocabulary
    declared: list[Labels | None] = [None, *points(vocabulary)]
    before: list[Labels | None] = [None, *taints]
    for (tenant, key), model in itertools.product(
        callers(two.after.bundle), sorted(two.after.bundle.routes.models)
    ):
        for header, taint in itertools.product(declared, before):
            for unreadable in (False, True):
                yield Sending(tenant, key, header, taint, unreadable, model)


@functools.lru_cache(maxsize=4)
def callers(bundle: Bundle) -> dict[tuple[str, str], Caller]:
    own = {(tenant.id, ""): tenant.caller for tenant in bundle.tenants.values()}
    return own | {bundle.keys[sha256]: caller for sha256, caller in bundle.callers.items()}


def facts_of(sending: Sending, bundle: Bundle) -> Facts | None:
    """What a request carries in a bundle; None when it is refused before any rule sees it. A new key is held
    against what its tenant could do without it."""
    known = callers(bundle)
    caller = known.get((sending.tenant, sending.key), known.get((sending.tenant, "")))
    words = set(bundle.vocabulary.words())
    if caller is None or sending.model not in bundle.routes.models:
        return None
    if caller.models is not None and sending.model not in caller.models:
        return None
    if sending.header is not None and not set(sending.header.names()) <= words:
        return None
    taint = sending.taint
    if taint is not None and not set(taint.names()) <= words:
        known_words = [name for name in taint.names() if name in words]
        taint = bundle.vocabulary.union(bundle.vocabulary.from_names(known_words), caller.ceiling)
    if sending.unreadable:
        taint = caller.ceiling if taint is None else bundle.vocabulary.union(taint, caller.ceiling)
    facts = collect_facts(caller, sending.model, sending.header, taint, None, bundle.vocabulary)
    return None if above_ceiling(facts, caller, bundle.vocabulary) else facts


def sent_gains(two: Two, sending: Sending) -> tuple[Facts | None, set[tuple[Action, str]]]:
    """What a caller's request is permitted now and was not."""
    now, then = facts_of(sending, two.after.bundle), facts_of(sending, two.before.bundle)
    if now is None:
        return None, set()
    gained = {
        cell
        for cell, (allowed, _) in two.after.decided[now].items()
        if allowed and (then is None or not two.allowed_before(then, *cell))
    }
    return now, gained
