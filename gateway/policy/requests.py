"""Every request that there could be under a bundle, by class: where no rule and no claim sees a difference,
two requests are one.

Tenant, purpose and model are gone through class by class; for each of those, all sets of labels are looked at
in one step, as bits of a number (`gateway.policy.lattice`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.places import GATEWAY_KIND, Action
from gateway.policy.bundle import Bundle
from gateway.policy.claims import Claim
from gateway.policy.compile import (
    ACTIONS,
    cells,
    condition_mask,
    model_rules,
    purpose_rules,
    tenant_rules,
)
from gateway.policy.lattice import Lattice, lattice_of, points_permitted
from gateway.policy.rules import PlaceCondition

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, order=True)
class Who:
    """A tenant of the bundle, or (with the empty id) any tenant that the bundle does not name, by country."""

    tenant: str
    zone: str


@dataclass(frozen=True, slots=True)
class Alike(Generic[Value]):
    """Values of one axis that no rule and no claim tells apart; the first stands for all.

    `rules` and `claims` are those whose conditions on this axis they meet, bit i for the i-th.
    """

    members: tuple[Value, ...]
    rules: int
    claims: int

    @property
    def first(self) -> Value:
        return self.members[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """A tenant, a purpose and a model, with whatever labels; `rules` and `claims` as of all three."""

    who: Alike[Who]
    purpose: Alike[str]
    model: Alike[str]
    rules: int
    claims: int


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """The requests of a bundle. Bits of cells are those of its table, sets of labels those of `lattice`.

    `naming` holds, for each cell, the rules that name it; `by_labels`, for each rule, the labels at which its
    condition holds. Nothing here relies on more labels never permitting more.
    """

    bundle: Bundle
    lattice: Lattice
    whos: tuple[Alike[Who], ...]
    purposes: tuple[Alike[str], ...]
    models: tuple[Alike[str], ...]
    entrances: tuple[str, ...]
    naming: tuple[int, ...]
    by_labels: tuple[int, ...]
    _allowed: dict[int, int] = field(default_factory=dict, repr=False)  # worked out, by the rules that apply

    def asked(self) -> Iterator[Asked]:
        """Every combination of tenant, purpose and model: those of smaller witnesses first."""
        for who, purpose, model in itertools.product(self.whos, self.purposes, self.models):
            yield asked_of(who, purpose, model)

    def allowed(self, cell: int, asked: Asked) -> int:
        """The labels with which the action of this cell is permitted at its place: some rule permits it and
        none forbids it."""
        applying = asked.rules & self.naming[cell]
        known = self._allowed.get(applying)
        if known is not None:
            return known
        found = points_permitted(applying, self.bundle.table.forbids, self.by_labels)
        self._allowed[applying] = found
        return found

    def usable(self, asked: Asked, *, entrances: bool) -> int:
        """The cells of what this model can really use; with the gateways that would pass it on, if asked."""
        table = self.bundle.table
        return table.usable[asked.model.first] | (table.gateways if entrances else 0)

    def cell(self, action: Action, place: str) -> int:
        """The number of a cell."""
        return self.bundle.table.cell(action, place).bit_length() - 1

    def cells(self, actions: Iterable[Action], places: int) -> int:
        """The cells of these actions at this set of places."""
        return cells(actions, places, len(self.bundle.table.place_ids))

    def places(self, condition: PlaceCondition) -> int:
        """The places that meet a condition, as a set with one bit a place."""
        ordered = [self.bundle.places[place] for place in self.bundle.table.place_ids]
        return condition_mask(condition, ordered)

    def bit(self, place: str) -> int:
        """The set of this place alone."""
        return 1 << self.bundle.table.place_ids.index(place)

    def distinct_points(self, sets: Iterable[int]) -> list[int]:
        """One bit for each class of labels: those in the same of these sets and under the same rules."""
        told_apart = {*self.by_labels, *sets}
        size = self.lattice.everything.bit_length()
        columns = [f"{points:0{size}b}" for points in told_apart]
        classes = {signature: size - 1 - bit for bit, signature in enumerate(zip(*columns, strict=True))}
        return list(classes.values()) or [0]


def asked_of(who: Alike[Who], purpose: Alike[str], model: Alike[str]) -> Asked:
    rules = who.rules & purpose.rules & model.rules
    return Asked(who, purpose, model, rules, who.claims & purpose.claims & model.claims)


def requests_of(bundle: Bundle, claims: tuple[Claim, ...]) -> Requests:
    """Every request under a bundle, in the classes that its rules and these claims tell apart.

    Tenants are those of the bundle and, for each country of the world, one that the bundle does not name.
    """
    table, lattice = bundle.table, lattice_of(bundle.vocabulary)
    zones = {zone: {zone} | unions for zone, unions in bundle.geography.zones.items()}
    return Requests(
        bundle=bundle,
        lattice=lattice,
        whos=alike(
            [
                *(
                    (
                        who,
                        table.tenants[who.tenant, who.zone],
                        tenant_rules(claims, zones[who.zone] | {who.tenant}),
                    )
                    for who in (Who(tenant, zone) for tenant, zone in sorted(table.tenants))
                ),
                *(
                    (Who("", zone), table.zones[zone], tenant_rules(claims, names))
                    for zone, names in sorted(zones.items())
                ),
            ]
        ),
        purposes=alike(
            (purpose, rules, purpose_rules(claims, purpose)) for purpose, rules in table.purposes.items()
        ),
        models=alike(
            ((model, rules, model_rules(claims, model)) for model, rules in table.models.items()),
            table.usable,
        ),
        entrances=tuple(sorted(place.id for place in bundle.places.values() if place.kind == GATEWAY_KIND)),
        naming=tuple(
            sum(1 << number for number, mask in enumerate(table.masks) if mask >> cell & 1)
            for cell in range(len(ACTIONS) * len(table.place_ids))
        ),
        by_labels=tuple(lattice.meeting(rule.facts) for rule in bundle.rules),
    )


def alike(
    values: Iterable[tuple[Value, int, int]], served: Mapping[Value, int] | None = None
) -> tuple[Alike[Value], ...]:
    """The values in classes: those with the same rules, the same claims and, of models, the same backends."""
    found: dict[tuple[int, int, int], list[Value]] = {}
    for value, rules, claims in values:
        found.setdefault((rules, claims, served[value] if served is not None else 0), []).append(value)
    return tuple(Alike(tuple(members), rules, claims) for (rules, claims, _), members in found.items())
