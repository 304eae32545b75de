"""What the rules mean: the reference semantics, short enough to be read as the specification.

`gateway.policy.compile` makes a table of it; the suite holds both against each other, and against Cedar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.facts import Facts
from gateway.labels import Vocabulary
from gateway.places import Action, Place
from gateway.policy.rules import DEFAULT_DENY, Effect, FactCondition, PlaceCondition, Rule


def decide(
    facts: Facts,
    place: Place,
    action: Action,
    rules: Iterable[Rule],
    vocabulary: Vocabulary,
    unions: Mapping[str, frozenset[str]],
) -> tuple[bool, str]:
    """Whether `action` may happen at `place`, and the id of the rule that decides. Forbid wins.

    `unions` maps a country to the unions that it is in. The first forbid in file order decides, else the
    first permit, else `default-deny`.
    """
    applying = [
        rule
        for rule in rules
        if action in rule.actions
        and facts_meet(rule.facts, facts, vocabulary, unions)
        and place_meets(rule.place, place)
        and (rule.unless.empty or not place_meets(rule.unless, place))
    ]
    for effect in (Effect.FORBID, Effect.PERMIT):
        for rule in applying:
            if rule.effect is effect:
                return effect is Effect.PERMIT, rule.id
    return False, DEFAULT_DENY


def facts_meet(
    condition: FactCondition, facts: Facts, vocabulary: Vocabulary, unions: Mapping[str, frozenset[str]]
) -> bool:
    """Whether every key that the condition has holds for these facts."""
    tenant = {facts.tenant, facts.zone} | unions.get(facts.zone, frozenset())
    carried = facts.labels.categories
    return (
        (condition.tenant_in is None or not condition.tenant_in.isdisjoint(tenant))
        and (condition.purpose_in is None or facts.purpose in condition.purpose_in)
        and (condition.model_in is None or facts.model in condition.model_in)
        and (
            condition.sensitivity_at_least is None
            or vocabulary.rank(facts.labels.sensitivity) >= vocabulary.rank(condition.sensitivity_at_least)
        )
        and (condition.labels_any is None or not condition.labels_any.isdisjoint(carried))
        and (condition.labels_all is None or condition.labels_all <= carried)
    )


def place_meets(condition: PlaceCondition, place: Place) -> bool:
    """Whether every key that the condition has holds for this place."""
    return (
        (condition.place_in is None or not condition.place_in.isdisjoint({place.id} | place.zones))
        and (condition.operator_under is None or not condition.operator_under.isdisjoint(place.regimes))
        and (condition.attested is None or condition.attested <= place.attestations)
    )
