"""Makes a table of the rules, so that a decision is four look-ups and three ANDs.

Bit i of a rule set stands for rule i in file order, bit j of a place set for place j in id order. Each axis
of the facts (tenant, purpose, model, labels) maps a value to the set of rules whose conditions on that axis
hold; the AND of the four is the set of rules that apply. Facts with the same set are one equivalence class,
and every class that can occur gets its outcome here, at load.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gateway.labels import Labels, Vocabulary
from gateway.places import BACKEND_KINDS, GATEWAY_KIND, Action, Place
from gateway.policy.rules import Effect, PlaceCondition, Rule

ACTIONS: tuple[Action, ...] = tuple(Action)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one equivalence class may do. `places` holds what each action may really use: for `infer` only
    backends that serve the model; `entrances` the gateways that may read the request."""

    places: Mapping[Action, frozenset[str]]
    entrances: frozenset[str]
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The compiled rules. `outcomes` is keyed by model and by the set of rules that apply."""

    rules: tuple[Rule, ...]
    place_bit: Mapping[str, int]
    masks: Mapping[Action, tuple[int, ...]]
    forbids: int
    tenants: Mapping[tuple[str, str], int]
    zones: Mapping[str, int]
    purposes: Mapping[str, int]
    models: Mapping[str, int]
    labels: Mapping[Labels, int]
    outcomes: Mapping[tuple[str, int], Outcome]
    classes: int

    def allowed(self, applying: int, action: Action) -> int:
        """The set of places where `action` may happen under this set of rules, before asking who serves."""
        return allowed_places(self.masks[action], applying, self.forbids)


def compile_table(
    rules: tuple[Rule, ...],
    places: Mapping[str, Place],
    vocabulary: Vocabulary,
    zones: Mapping[str, frozenset[str]],
    tenants: Iterable[tuple[str, str]],
    models: Iterable[str],
) -> Table:
    """The table of these rules.

    `zones` maps every country to the unions that it is in, `tenants` are (id, country) pairs.
    """
    ordered = [places[place_id] for place_id in sorted(places)]
    zone_rules = {country: tenant_rules(rules, {country} | unions) for country, unions in zones.items()}
    tenant_axis = {
        (tenant, country): zone_rules[country] | tenant_rules(rules, {tenant}) for tenant, country in tenants
    }
    purpose_axis = {
        purpose: rule_set(r.facts.purpose_in is None or purpose in r.facts.purpose_in for r in rules)
        for purpose in sorted(vocabulary.purposes)
    }
    model_axis = {
        model: rule_set(r.facts.model_in is None or model in r.facts.model_in for r in rules)
        for model in sorted(models)
    }
    label_axis = {labels: label_rules(rules, labels, vocabulary) for labels in every_labels(vocabulary)}
    masks = {
        action: tuple(place_mask(rule, ordered) if action in rule.actions else 0 for rule in rules)
        for action in ACTIONS
    }
    forbids = rule_set(rule.effect is Effect.FORBID for rule in rules)
    outcomes: dict[tuple[str, int], Outcome] = {}
    shared: dict[tuple[int, ...], Outcome] = {}
    classes: set[int] = set()
    tenant_values = {*zone_rules.values(), *tenant_axis.values()}
    for model, of_model in model_axis.items():
        serving = {action: serving_mask(ordered, action, model) for action in ACTIONS}
        gateways = bits(place.kind == GATEWAY_KIND for place in ordered)
        for of_tenant, of_purpose, of_labels in itertools.product(
            tenant_values, set(purpose_axis.values()), set(label_axis.values())
        ):
            applying = of_tenant & of_purpose & of_model & of_labels
            classes.add(applying)
            if (model, applying) in outcomes:
                continue
            allowed = [allowed_places(masks[action], applying, forbids) for action in ACTIONS]
            usable = tuple(mask & serving[action] for mask, action in zip(allowed, ACTIONS, strict=True))
            entrances = allowed[ACTIONS.index(Action.INFER)] & gateways
            key = (*usable, entrances)
            if key not in shared:
                shared[key] = outcome(usable, entrances, ordered)
            outcomes[(model, applying)] = shared[key]
    return Table(
        rules=rules,
        place_bit=MappingProxyType({place.id: 1 << bit for bit, place in enumerate(ordered)}),
        masks=MappingProxyType(masks),
        forbids=forbids,
        tenants=MappingProxyType(tenant_axis),
        zones=MappingProxyType(zone_rules),
        purposes=MappingProxyType(purpose_axis),
        models=MappingProxyType(model_axis),
        labels=MappingProxyType(label_axis),
        outcomes=MappingProxyType(outcomes),
        classes=len(classes),
    )


def rule_set(holds: Iterable[bool]) -> int:
    """The rules for which a condition holds, in file order, as a bit set."""
    return bits(holds)


def bits(holds: Iterable[bool]) -> int:
    """Bit i is set where the i-th value is true."""
    return sum(1 << index for index, value in enumerate(holds) if value)


def tenant_rules(rules: tuple[Rule, ...], names: set[str] | frozenset[str]) -> int:
    """The rules that a tenant with one of these names (its id, country, unions) is under."""
    return rule_set(r.facts.tenant_in is None or not r.facts.tenant_in.isdisjoint(names) for r in rules)


def label_rules(rules: tuple[Rule, ...], labels: Labels, vocabulary: Vocabulary) -> int:
    """The rules whose conditions on labels hold. Each such condition, once true, stays true for more."""
    rank = vocabulary.rank(labels.sensitivity)
    return rule_set(
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


def place_mask(rule: Rule, places: list[Place]) -> int:
    """The places that a rule is about: those that meet `when`, less those that meet `unless`."""
    about = condition_mask(rule.place, places)
    return about if rule.unless.empty else about & ~condition_mask(rule.unless, places)


def condition_mask(condition: PlaceCondition, places: list[Place]) -> int:
    """The places that meet every key of a condition."""
    mask = bits(True for _ in places)
    if condition.place_in is not None:
        mask &= bits(p.id in condition.place_in or bool(condition.place_in & p.zones) for p in places)
    if condition.operator_under is not None:
        mask &= bits(bool(condition.operator_under & p.regimes) for p in places)
    if condition.attested is not None:
        mask &= bits(condition.attested <= p.attestations for p in places)
    return mask


def serving_mask(places: list[Place], action: Action, model: str) -> int:
    """The places that can really do `action` for `model`; for `infer` only backends."""
    return bits(
        place.offers(action, model) and (action is not Action.INFER or place.kind in BACKEND_KINDS)
        for place in places
    )


def allowed_places(masks: tuple[int, ...], applying: int, forbids: int) -> int:
    """Every place that some applying permit names and no applying forbid names."""
    permitted = forbidden = 0
    for index, mask in enumerate(masks):
        bit = 1 << index
        if applying & bit:
            if forbids & bit:
                forbidden |= mask
            else:
                permitted |= mask
    return permitted & ~forbidden


def outcome(usable: tuple[int, ...], entrances: int, places: list[Place]) -> Outcome:
    """The outcome with these sets of places, one for each action."""
    named = {action: place_ids(mask, places) for action, mask in zip(ACTIONS, usable, strict=True)}
    text = ";".join(f"{action}:{','.join(sorted(ids))}" for action, ids in named.items())
    return Outcome(
        places=MappingProxyType(named),
        entrances=place_ids(entrances, places),
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def place_ids(mask: int, places: list[Place]) -> frozenset[str]:
    """The ids of a set of places."""
    return frozenset(place.id for bit, place in enumerate(places) if mask >> bit & 1)
