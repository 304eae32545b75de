"""Every candidate place and action of a request, the rule that decided, and the values that it saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.facts import Facts
from gateway.places import Action, Place
from gateway.policy.alternative import answerable, nearest_alternative
from gateway.policy.bundle import Bundle
from gateway.policy.decide import facts_meet, place_meets
from gateway.policy.permit import Verdict, permit
from gateway.policy.rules import Effect, PlaceCondition, Rule


@dataclass(frozen=True, slots=True)
class Candidate:
    """One action at one place. `saw` pairs each condition of the deciding rule with the value it met.

    `missed` says, where no rule decides, what each permit for this action would still have needed.
    """

    action: Action
    place: str
    verdict: Verdict
    saw: Mapping[str, str]
    missed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All of it. `alternative` is None when the request is permitted."""

    facts: Facts
    revision: str
    permitted: bool
    candidates: tuple[Candidate, ...]
    alternative: str | None

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "revision": self.revision,
            "permitted": self.permitted,
            "facts": {
                "tenant": self.facts.tenant,
                "zone": self.facts.zone,
                "purpose": self.facts.purpose,
                "model": self.facts.model,
                "labels": list(self.facts.labels.names()),
            },
            "candidates": [
                {
                    "action": one.action.value,
                    "place": one.place,
                    "allowed": one.verdict.allowed,
                    "rule": one.verdict.rule,
                    "basis": one.verdict.basis,
                    "saw": dict(one.saw),
                    "missed": list(one.missed),
                }
                for one in self.candidates
            ],
            "nearest_alternative": self.alternative,
        }


def explain(facts: Facts, bundle: Bundle) -> Explanation:
    """Why each action that a place offers may or may not happen there for these facts."""
    permitted = permit(facts, bundle)
    rules = {rule.id: rule for rule in bundle.rules}
    candidates = []
    for action in Action:
        for place in sorted(bundle.places.values(), key=lambda one: one.id):
            if action not in place.actions:
                continue
            verdict = permitted.verdict(action, place.id)
            rule = rules.get(verdict.rule)
            candidates.append(
                Candidate(
                    action,
                    place.id,
                    verdict,
                    {} if rule is None else saw(rule, facts, place, bundle),
                    () if rule is not None else missed(facts, place, action, bundle),
                )
            )
    fine = answerable(permitted, bundle)
    alternative = None if fine else nearest_alternative(facts, bundle)
    return Explanation(facts, bundle.revision, fine, tuple(candidates), alternative)


def saw(rule: Rule, facts: Facts, place: Place, bundle: Bundle) -> dict[str, str]:
    """Each condition of a rule, as written, and the value that it was held against."""
    tenant = ", ".join([facts.tenant, facts.zone, *sorted(bundle.geography.zones[facts.zone])])
    categories = ", ".join(sorted(facts.labels.categories)) or "none"
    asked = rule.facts
    found: dict[str, str] = {}
    for key, wanted, value in (
        ("tenant_in", asked.tenant_in, tenant),
        ("purpose_in", asked.purpose_in, facts.purpose),
        ("model_in", asked.model_in, facts.model),
        ("labels_any", asked.labels_any, categories),
        ("labels_all", asked.labels_all, categories),
    ):
        if wanted is not None:
            found[f"when {key} {', '.join(sorted(wanted))}"] = value
    if asked.sensitivity_at_least is not None:
        found[f"when sensitivity_at_least {asked.sensitivity_at_least}"] = facts.labels.sensitivity
    found |= saw_place("when", rule.place, place)
    found |= saw_place("unless", rule.unless, place)
    return found


def saw_place(section: str, condition: PlaceCondition, place: Place) -> dict[str, str]:
    """The same of a condition on places."""
    return {
        f"{section} {key} {', '.join(sorted(wanted))}": value
        for key, wanted, value in (
            ("place_in", condition.place_in, ", ".join([place.id, *sorted(place.zones)])),
            ("operator_under", condition.operator_under, ", ".join(sorted(place.regimes)) or "none"),
            ("attested", condition.attested, ", ".join(sorted(place.attestations)) or "none"),
        )
        if wanted is not None
    }


def missed(facts: Facts, place: Place, action: Action, bundle: Bundle) -> tuple[str, ...]:
    """For each permit of this action: which part of it does not hold."""
    texts = []
    for rule in bundle.rules:
        if rule.effect is not Effect.PERMIT or action not in rule.actions:
            continue
        parts = []
        if not facts_meet(rule.facts, facts, bundle.vocabulary, bundle.geography.zones):
            parts.append("the facts")
        if not place_meets(rule.place, place):
            parts.append("the place")
        if not rule.unless.empty and place_meets(rule.unless, place):
            parts.append("`unless`")
        if parts:
            texts.append(f"`{rule.id}` does not apply because of {' and '.join(parts)}")
    return tuple(texts)
