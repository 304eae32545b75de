"""Makes a table of the rules, so that a decision is five look-ups and three ANDs.

Bit i of a rule set stands for rule i in file order. Bit j of a cell set stands for one action at one place:
the places in id order, once for each action. Each axis of the facts (tenant, purpose, model, labels) maps a
value to the set of rules whose conditions on that axis hold; the AND of the four is the set of rules that
apply. Facts with the same set are one equivalence class.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol

from gateway.labels import Labels, Vocabulary
from gateway.places import BACKEND_KINDS, GATEWAY_KIND, Action, Place
from gateway.policy.rules import Effect, FactCondition, PlaceCondition, Rule

ACTIONS: Final = tuple(Action)

# Bundles with more classes than this (they tell very much apart) get their outcomes on demand, at a few
# times the cost of a look-up, instead of a table of all of them.
CLASSES_LISTED_MAX: Final = 100_000


class AboutFacts(Protocol):
    """Whatever has conditions on facts: a rule, a claim."""

    @property
    def facts(self) -> FactCondition: ...


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one equivalence class may do.

    `places` holds what each action can really use: for `infer` the backends that serve the model.
    `entrances` holds the gateways that may read the request.
    """

    places: Mapping[Action, frozenset[str]]
    entrances: frozenset[str]
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The compiled rules: see the module's first lines for rule sets and cell sets.

    `masks` holds the cells that each rule names, `forbids` the rules that forbid, `usable` for each model the
    cells that can really be used, `outcomes` what each listed (model, rule set) may do.
    """

    rules: tuple[Rule, ...]
    place_ids: tuple[str, ...]
    masks: tuple[int, ...]
    forbids: int
    usable: Mapping[str, int]
    gateways: int
    tenants: Mapping[tuple[str, str], int]
    zones: Mapping[str, int]
    purposes: Mapping[str, int]
    models: Mapping[str, int]
    labels: Mapping[Labels, int]
    outcomes: Mapping[tuple[str, int], Outcome]
    classes: int

    def allowed(self, applying: int) -> int:
        """Every cell that some applying permit names and no applying forbid names."""
        permitted = forbidden = 0
        rest = applying
        while rest:
            bit = rest & -rest
            mask = self.masks[bit.bit_length() - 1]
            if self.forbids & bit:
                forbidden |= mask
            else:
                permitted |= mask
            rest ^= bit
        return permitted & ~forbidden

    def cell(self, action: Action, place: str) -> int:
        """The cell set of one action at one place. Raises ValueError for a place that is not there."""
        return 1 << (ACTIONS.index(action) * len(self.place_ids) + self.place_ids.index(place))

    def named(self, cells: int) -> list[tuple[Action, str]]:
        """The actions and places of a cell set, in order."""
        found = []
        while cells:
            lowest = cells & -cells
            action, place = divmod(lowest.bit_length() - 1, len(self.place_ids))
            found.append((ACTIONS[action], self.place_ids[place]))
            cells ^= lowest
        return found

    def outcome(self, model: str, applying: int) -> Outcome:
        """What a class may do: looked up where it is listed, else worked out."""
        listed = self.outcomes.get((model, applying))
        return listed if listed is not None else self.work_out(model, applying)

    def work_out(self, model: str, applying: int) -> Outcome:
        """What a class may do, from the masks."""
        allowed = self.allowed(applying)
        return outcome_of(self.named(allowed & self.usable[model]), self.named(allowed & self.gateways))


def compile_table(
    rules: tuple[Rule, ...],
    places: Mapping[str, Place],
    vocabulary: Vocabulary,
    zones: Mapping[str, frozenset[str]],
    tenants: Iterable[tuple[str, str]],
    models: Iterable[str],
    listed_max: int = CLASSES_LISTED_MAX,
) -> Table:
    """The table of these rules.

    `zones` maps every country to the unions that it is in; `tenants` are (id, country) pairs.
    """
    ordered = [places[place_id] for place_id in sorted(places)]
    by_zone = {country: tenant_rules(rules, {country} | unions) for country, unions in zones.items()}
    by_model = {model: model_rules(rules, model) for model in sorted(models)}
    bare = Table(
        rules=rules,
        place_ids=tuple(place.id for place in ordered),
        masks=tuple(rule_mask(rule, ordered) for rule in rules),
        forbids=bits(rule.effect is Effect.FORBID for rule in rules),
        usable=MappingProxyType({model: usable_mask(ordered, model) for model in by_model}),
        gateways=cells({Action.INFER}, bits(place.kind == GATEWAY_KIND for place in ordered), len(ordered)),
        tenants=MappingProxyType(
            {(tenant, zone): by_zone[zone] | tenant_rules(rules, {tenant}) for tenant, zone in tenants}
        ),
        zones=MappingProxyType(by_zone),
        purposes=MappingProxyType(
            {purpose: purpose_rules(rules, purpose) for purpose in sorted(vocabulary.purposes)}
        ),
        models=MappingProxyType(by_model),
        labels=MappingProxyType(
            {labels: label_rules(rules, labels, vocabulary) for labels in every_labels(vocabulary)}
        ),
        outcomes=MappingProxyType({}),
        classes=0,
    )
    return list_outcomes(bare, listed_max)


def list_outcomes(table: Table, listed_max: int) -> Table:
    """The table with the outcome of every class that can occur, unless there are more than `listed_max`."""
    tenants = {*table.zones.values(), *table.tenants.values()}
    rests = {
        of_tenant & of_purpose
        for of_tenant, of_purpose in itertools.product(tenants, set(table.purposes.values()))
    }
    of_labels = set(table.labels.values())
    most = len(table.models) * len(rests) * len(of_labels)
    outcomes: dict[tuple[str, int], Outcome] = {}
    if most <= listed_max:
        shared: dict[tuple[int, int], Outcome] = {}
        for model, rest, labels in itertools.product(table.models, rests, of_labels):
            applying = table.models[model] & rest & labels
            if (model, applying) not in outcomes:
                allowed = table.allowed(applying)
                key = (allowed & table.usable[model], allowed & table.gateways)
                if key not in shared:
                    shared[key] = table.work_out(model, applying)
                outcomes[model, applying] = shared[key]
    return replace(table, outcomes=MappingProxyType(outcomes), classes=len(outcomes) or most)


def bits(holds: Iterable[bool]) -> int:
    """Bit i is set where the i-th value is true."""
    return sum(1 << index for index, value in enumerate(holds) if value)


def tenant_rules(rules: Sequence[AboutFacts], names: set[str]) -> int:
    """The rules that a tenant with one of these names (its id, country, unions) is under."""
    return bits(r.facts.tenant_in is None or not r.facts.tenant_in.isdisjoint(names) for r in rules)


def purpose_rules(rules: Sequence[AboutFacts], purpose: str) -> int:
    """The rules that hold for this purpose."""
    return bits(r.facts.purpose_in is None or purpose in r.facts.purpose_in for r in rules)


def model_rules(rules: Sequence[AboutFacts], model: str) -> int:
    """The rules that hold for this model."""
    return bits(r.facts.model_in is None or model in r.facts.model_in for r in rules)


def label_rules(rules: tuple[Rule, ...], labels: Labels, vocabulary: Vocabulary) -> int:
    """The rules whose conditions on labels hold. Each such condition, once true, stays true for more."""
    rank = vocabulary.rank(labels.sensitivity)
    return bits(
        (r.facts.sensitivity_at_least is None or rank >= vocabulary.rank(r.facts.sensitivity_at_least))
        and (r.facts.labels_any is None or not r.facts.labels_any.isdisjoint(labels.categories))
        and (r.facts.labels_all is None or r.facts.labels_all <= labels.categories)
        for r in rules
    )


def every_labels(vocabulary: Vocabulary) -> Iterator[Labels]:
    """Every point of the lattice, lower ones before higher ones."""
    names = sorted(vocabulary.categories)
    for count in range(len(names) + 1):
        for chosen in itertools.combinations(names, count):
            for sensitivity in vocabulary.scale:
                yield Labels(sensitivity, frozenset(chosen))


def rule_mask(rule: Rule, places: Sequence[Place]) -> int:
    """The cells that a rule names: its actions, at the places that meet `when` and do not meet `unless`."""
    about = condition_mask(rule.place, places)
    if not rule.unless.empty:
        about &= ~condition_mask(rule.unless, places)
    return cells(rule.actions, about, len(places))


def condition_mask(condition: PlaceCondition, places: Sequence[Place]) -> int:
    """The places that meet every key of a condition, as a set with one bit a place."""
    mask = (1 << len(places)) - 1
    if condition.place_in is not None:
        mask &= bits(p.id in condition.place_in or bool(condition.place_in & p.zones) for p in places)
    if condition.operator_under is not None:
        mask &= bits(bool(condition.operator_under & p.regimes) for p in places)
    if condition.attested is not None:
        mask &= bits(condition.attested <= p.attestations for p in places)
    return mask


def cells(actions: Iterable[Action], places: int, count: int) -> int:
    """The cell set of these actions at this set of places, of `count` places in all."""
    return sum(places << ACTIONS.index(action) * count for action in actions)


def usable_mask(places: Sequence[Place], model: str) -> int:
    """The cells that can really be used for `model`: a gateway lets a request in, but answers nothing."""
    return sum(
        cells(
            {action},
            bits(
                place.offers(action, model) and (action is not Action.INFER or place.kind in BACKEND_KINDS)
                for place in places
            ),
            len(places),
        )
        for action in ACTIONS
    )


def outcome_of(usable: Iterable[tuple[Action, str]], entrances: Iterable[tuple[Action, str]]) -> Outcome:
    """The outcome with these cells."""
    places: dict[Action, set[str]] = {action: set() for action in ACTIONS}
    for action, place in usable:
        places[action].add(place)
    doors = frozenset(place for _, place in entrances)
    text = ";".join(f"{action}:{','.join(sorted(names))}" for action, names in places.items())
    text += f";entrances:{','.join(sorted(doors))}"
    return Outcome(
        places=MappingProxyType({action: frozenset(names) for action, names in places.items()}),
        entrances=doors,
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
    )
