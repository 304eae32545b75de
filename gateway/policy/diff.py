"""What becomes allowed, and what becomes denied, between two bundles: by going through all cases of both.

Two requests are one class where no rule of either bundle sees a difference. A request is the same in both
when tenant, purpose, model, labels, action and place have the same names; a tenant's country is what each
bundle says. Whatever a bundle does not have it permits nothing: so what a new place, tenant, purpose, model
or label is permitted is newly allowed, and what one that is gone was permitted becomes denied. A place of the
same name in another country, region or hand is another place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.compile import ACTIONS
from gateway.policy.entrances import equal
from gateway.policy.lattice import Lattice, lattice_of
from gateway.policy.permit import Verdict, verdict_at
from gateway.policy.reading import Reading, knows, reading_of, same_place
from gateway.policy.requests import Who
from gateway.policy.rules import UNKNOWN_PLACE
from gateway.policy.witness import Standing

Value = TypeVar("Value")

# What decides in a bundle that lacks a word of the request.
UNKNOWN_TENANT: Final = "unknown-tenant"
UNKNOWN_PURPOSE: Final = "unknown-purpose"
UNKNOWN_MODEL: Final = "unknown-model"
UNKNOWN_LABEL: Final = "unknown-label"


@dataclass(frozen=True, slots=True)
class Paired(Generic[Value]):
    """Values of one axis that no rule of either bundle tells apart, with the rules of each that are about
    them; `before` is None where the earlier bundle does not have them."""

    members: tuple[Value, ...]
    after: int
    before: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """The smallest request of a group: what decided about it in the one bundle, and what in the other.

    `zone_before` is the tenant's country in the earlier bundle, where it is another one. `moved` says that
    the place is not where it was: then `before` may be permitted, at the place as it was.
    """

    who: Who
    zone_before: str | None
    purpose: str
    model: str
    labels: Labels
    before: Standing
    after: Standing
    moved: bool

    def key(self) -> tuple[object, ...]:
        """The order of smallness, as that of a proof's witnesses; ranks are the later vocabulary's."""
        names = tuple(sorted(self.labels.categories))
        who = (self.who.tenant == "", self.who.tenant, self.who.zone)
        at = (ACTIONS.index(self.after.action), self.after.place)
        return len(names), names, who, self.purpose, self.model, at


@dataclass(frozen=True, slots=True)
class Group:
    """One action at several places that requests of any of `whos`, for any of `purposes`, with any of
    `models` gain: those with labels between one of `labels_from` and one of `labels_to`."""

    action: Action
    places: tuple[str, ...]
    whos: tuple[Who, ...]
    purposes: tuple[str, ...]
    models: tuple[str, ...]
    labels_from: tuple[Labels, ...]
    labels_to: tuple[Labels, ...]
    smallest: Change


def gains(before: Bundle, after: Bundle) -> tuple[Group, ...]:
    """What `after` permits and `before` does not, for every request that there could be; the groups with
    smaller requests first. Losses are the gains of the way back."""
    lattice = lattice_of(after.vocabulary)
    now, then = reading_of(after, lattice), reading_of(before, lattice)
    whos, purposes, models = (
        paired_whos(before, after),
        paired_purposes(before, after),
        paired_models(before, after),
    )
    every = list(itertools.product(whos, purposes, models))
    alike: dict[tuple[int, ...], list[tuple[Action, str]]] = {}
    shared: dict[int, int] = {}  # equal sets of labels are kept once: there can be many of 2 KiB each
    for action, place in after.table.named((1 << len(ACTIONS) * len(after.table.place_ids)) - 1):
        gained = tuple(
            shared.setdefault(points, points)
            for points in (gain(now, then, action, place, *asked) for asked in every)
        )
        if any(gained):
            alike.setdefault(gained, []).append((action, place))
    found = []
    for gained, cells in alike.items():
        by_model = iter(gained)
        tree = {
            who: {purpose: {model: next(by_model) for model in models} for purpose in purposes}
            for who in whos
        }
        for whos_of, purposes_of, models_of, points in leaves(tree, lattice):
            labels_from = tuple(lattice.in_order(lattice.least(points)))
            labels_to = tuple(lattice.in_order(lattice.greatest(points)))
            for action in ACTIONS:
                places = tuple(sorted(place for one, place in cells if one is action))
                if places:
                    who = min(whos_of, key=lambda who: (not who.tenant, who))
                    smallest = change_at(
                        before, after, who, purposes_of[0], models_of[0], labels_from[0], action, places[0]
                    )
                    found.append(
                        Group(
                            action, places, whos_of, purposes_of, models_of, labels_from, labels_to, smallest
                        )
                    )
    scale = after.vocabulary
    return tuple(
        sorted(
            found,
            key=lambda group: (
                len(group.smallest.labels.categories),
                scale.rank(group.smallest.labels.sensitivity),
                group.smallest.key(),
            ),
        )
    )


def gain(
    now: Reading,
    then: Reading,
    action: Action,
    place: str,
    who: Paired[Who],
    purpose: Paired[str],
    model: Paired[str],
) -> int:
    """The labels with which the one bundle permits and the other does not."""
    after, before = now.bundle, then.bundle
    if not after.places[place].offers(action, model.members[0]):
        return 0
    points = now.allowed(action, place, who.after & purpose.after & model.after)
    if not points or who.before is None or purpose.before is None or model.before is None:
        return points
    there = before.places.get(place)
    if (
        there is None
        or not there.offers(action, model.members[0])
        or not same_place(there, after.places[place])
    ):
        return points
    return points & ~then.allowed(action, place, who.before & purpose.before & model.before)


def paired_whos(before: Bundle, after: Bundle) -> tuple[Paired[Who], ...]:
    """The tenants of the later bundle, then one that it does not name in each country."""
    earlier = {tenant: mask for (tenant, _), mask in before.table.tenants.items()}
    named = [
        (Who(tenant, zone), mask, earlier.get(tenant))
        for (tenant, zone), mask in sorted(after.table.tenants.items())
    ]
    unnamed = [
        (Who("", zone), mask, before.table.zones.get(zone))
        for zone, mask in sorted(after.table.zones.items())
    ]
    return paired([*named, *unnamed], {})


def paired_purposes(before: Bundle, after: Bundle) -> tuple[Paired[str], ...]:
    tables = before.table.purposes, after.table.purposes
    return paired([(name, mask, tables[0].get(name)) for name, mask in sorted(tables[1].items())], {})


def paired_models(before: Bundle, after: Bundle) -> tuple[Paired[str], ...]:
    """Models differ also where other backends serve them."""
    served = {
        model: tuple(
            frozenset(place.id for place in bundle.places.values() if model in place.models)
            for bundle in (before, after)
        )
        for model in after.routes.models
    }
    tables = before.table.models, after.table.models
    return paired([(name, mask, tables[0].get(name)) for name, mask in sorted(tables[1].items())], served)


def paired(
    values: Iterable[tuple[Value, int, int | None]], also: Mapping[Value, object]
) -> tuple[Paired[Value], ...]:
    """The values in classes, in the order of their first members."""
    found: dict[tuple[int, int | None, object], list[Value]] = {}
    for value, after, before in values:
        found.setdefault((after, before, also.get(value)), []).append(value)
    return tuple(Paired(tuple(members), after, before) for (after, before, _), members in found.items())


def leaves(
    tree: Mapping[Paired[Who], Mapping[Paired[str], Mapping[Paired[str], int]]], lattice: Lattice
) -> Iterator[tuple[tuple[Who, ...], tuple[str, ...], tuple[str, ...], int]]:
    """Together what differs in nothing but tenant, then purpose, then model; without what gains
    nothing, and each convex part of the labels by itself."""
    for whos, of_purpose in equal(tree):
        for purposes, of_model in equal(of_purpose):
            for models, points in equal(of_model):
                for part in lattice.convex(points):
                    yield flat(whos), tuple(sorted(flat(purposes))), tuple(sorted(flat(models))), part


def flat(classes: Iterable[Paired[Value]]) -> tuple[Value, ...]:
    return tuple(member for one in classes for member in one.members)


def change_at(
    before: Bundle,
    after: Bundle,
    who: Who,
    purpose: str,
    model: str,
    labels: Labels,
    action: Action,
    place: str,
) -> Change:
    """One request with what decides about it on both sides."""
    there = before.places.get(place)
    tenant = before.tenants.get(who.tenant)
    zone_before = tenant.zone if tenant is not None and tenant.zone != who.zone else None
    return Change(
        who=who,
        zone_before=zone_before,
        purpose=purpose,
        model=model,
        labels=labels,
        before=standing_at(
            before, Who(who.tenant, zone_before or who.zone), purpose, model, labels, action, place
        ),
        after=standing_at(after, who, purpose, model, labels, action, place),
        moved=there is not None and not same_place(there, after.places[place]),
    )


def standing_at(
    bundle: Bundle, who: Who, purpose: str, model: str, labels: Labels, action: Action, place: str
) -> Standing:
    """What decides about a request in a bundle that may lack some of its words."""
    table = bundle.table
    tenant = table.tenants.get((who.tenant, who.zone)) if who.tenant else table.zones.get(who.zone)
    lacks = [
        (UNKNOWN_TENANT, tenant is not None),
        (UNKNOWN_PURPOSE, purpose in table.purposes),
        (UNKNOWN_MODEL, model in table.models),
        (UNKNOWN_LABEL, knows(bundle.vocabulary, labels)),
        (UNKNOWN_PLACE, place in bundle.places),
    ]
    missing = next((why for why, there in lacks if not there), None)
    if missing is not None or tenant is None:
        return Standing(action, place, Verdict(False, missing or UNKNOWN_TENANT, None), "", 0)
    applying = tenant & table.purposes[purpose] & table.models[model] & table.labels[labels]
    verdict = verdict_at(bundle, model, applying, action, place)
    rule = next((rule for rule in bundle.rules if rule.id == verdict.rule), None)
    return Standing(action, place, verdict, rule.file if rule else "", rule.line if rule else 0)
