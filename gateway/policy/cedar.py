"""The residency rules as Cedar: an independent statement of the same policy, for checking and for analysis.

It is not on the request path. The suite holds the table against it, decision by decision.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.facts import Facts
from gateway.labels import Vocabulary
from gateway.places import GATEWAY_KIND, Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.rules import ACTION_NOT_OFFERED, MODEL_NOT_SERVED, Effect, PlaceCondition, Rule

NAMESPACE: Final = "Douane"

SCHEMA: Final = """\
namespace Douane {
  entity Zone in [Zone];
  entity Tenant in [Zone];
  entity Place in [Zone] {
    kind: String,
    operator: String,
    actions: Set<String>,
    models: Set<String>,
    regimes: Set<String>,
    attestations: Set<String>,
  };
  type Asked = {
    purpose: String,
    model: String,
    sensitivity: Long,
    labels: Set<String>,
  };
  action "infer", "cache", "log", "record" appliesTo {
    principal: [Tenant],
    resource: [Place],
    context: Asked,
  };
}
"""


@dataclass(frozen=True, slots=True)
class CedarExport:
    """Cedar policies and schema as text, entities as Cedar's JSON."""

    policies: str
    entities: tuple[Mapping[str, Any], ...]
    schema: str


def export_cedar(bundle: Bundle) -> CedarExport:
    """The whole bundle: one Cedar policy for each rule, and those that say what a place can do at all."""
    policies = [policy_of(rule, bundle.vocabulary) for rule in bundle.rules]
    policies += [*offered(), served()]
    return CedarExport(
        policies="\n".join(policies),
        entities=(
            *(zone_entity(zone, frozenset()) for zone in sorted(bundle.geography.unions)),
            *(zone_entity(zone, unions) for zone, unions in sorted(bundle.geography.zones.items())),
            *(tenant_entity(tenant.id, tenant.zone) for tenant in bundle.tenants.values()),
            *(place_entity(place) for place in bundle.places.values()),
        ),
        schema=SCHEMA,
    )


def policy_of(rule: Rule, vocabulary: Vocabulary) -> str:
    """One rule. Cedar has the same reading of it: forbid wins, nothing is permitted by default."""
    facts = rule.facts
    conditions = []
    if facts.tenant_in is not None:
        conditions.append(within("principal", facts.tenant_in, "Tenant"))
    if facts.purpose_in is not None:
        conditions.append(f"{texts(facts.purpose_in)}.contains(context.purpose)")
    if facts.model_in is not None:
        conditions.append(f"{texts(facts.model_in)}.contains(context.model)")
    if facts.sensitivity_at_least is not None:
        conditions.append(f"context.sensitivity >= {vocabulary.rank(facts.sensitivity_at_least)}")
    if facts.labels_any is not None:
        conditions.append(f"context.labels.containsAny({texts(facts.labels_any)})")
    if facts.labels_all is not None:
        conditions.append(f"context.labels.containsAll({texts(facts.labels_all)})")
    conditions += place_conditions(rule.place)
    lines = [f"@id({json.dumps(rule.id)})"]
    if rule.basis is not None:
        lines.append(f"@basis({cedar_text(rule.basis)})")
    effect = "forbid" if rule.effect is Effect.FORBID else "permit"
    actions = ", ".join(reference("Action", action.value) for action in Action if action in rule.actions)
    lines.append(f"{effect} (principal, action in [{actions}], resource)")
    if conditions:
        lines.append(f"when {{ {' && '.join(conditions)} }}")
    if not rule.unless.empty:
        lines.append(f"unless {{ {' && '.join(place_conditions(rule.unless))} }}")
    return "\n".join(lines) + ";\n"


def place_conditions(condition: PlaceCondition) -> list[str]:
    """The conditions on a place, as Cedar expressions."""
    found = []
    if condition.place_in is not None:
        found.append(within("resource", condition.place_in, "Place"))
    if condition.operator_under is not None:
        found.append(f"resource.regimes.containsAny({texts(condition.operator_under)})")
    if condition.attested is not None:
        found.append(f"resource.attestations.containsAll({texts(condition.attested)})")
    return found


def offered() -> list[str]:
    """That a place does only what its kind can do."""
    return [
        f"@id({json.dumps(ACTION_NOT_OFFERED)})\n"
        f"forbid (principal, action == {reference('Action', action.value)}, resource)\n"
        f"unless {{ resource.actions.contains({json.dumps(action.value)}) }};\n"
        for action in Action
    ]


def served() -> str:
    """That a backend infers only with the models that it serves, and a gateway passes on any."""
    return (
        f"@id({json.dumps(MODEL_NOT_SERVED)})\n"
        f"forbid (principal, action == {reference('Action', Action.INFER.value)}, resource)\n"
        f"unless {{ resource.kind == {json.dumps(GATEWAY_KIND)} || "
        "resource.models.contains(context.model) };\n"
    )


def cedar_request(facts: Facts, action: Action, place: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """The question whether `action` may happen at `place` for these facts, as Cedar's JSON takes it."""
    return {
        "principal": reference("Tenant", facts.tenant),
        "action": reference("Action", action.value),
        "resource": reference("Place", place),
        "context": {
            "purpose": facts.purpose,
            "model": facts.model,
            "sensitivity": vocabulary.rank(facts.labels.sensitivity),
            "labels": sorted(facts.labels.categories),
        },
    }


def zone_entity(zone: str, unions: frozenset[str]) -> dict[str, Any]:
    return {
        "uid": uid("Zone", zone),
        "attrs": {},
        "parents": [uid("Zone", union) for union in sorted(unions)],
    }


def tenant_entity(tenant: str, country: str) -> dict[str, Any]:
    """A tenant, under its country."""
    return {"uid": uid("Tenant", tenant), "attrs": {}, "parents": [uid("Zone", country)]}


def place_entity(place: Place) -> dict[str, Any]:
    """A place, under its country, with all that a rule can ask of it."""
    return {
        "uid": uid("Place", place.id),
        "attrs": {
            "kind": place.kind,
            "operator": place.operator,
            "actions": sorted(action.value for action in place.actions),
            "models": sorted(place.models),
            "regimes": sorted(place.regimes),
            "attestations": sorted(place.attestations),
        },
        "parents": [uid("Zone", place.country)],
    }


def uid(kind: str, name: str) -> dict[str, str]:
    return {"type": f"{NAMESPACE}::{kind}", "id": name}


def reference(kind: str, name: str) -> str:
    return f"{NAMESPACE}::{kind}::{json.dumps(name)}"


def within(variable: str, names: Iterable[str], kind: str) -> str:
    """That a variable is in one of these zones (upper case) or is one of these things of `kind` (lower case).

    Cedar's validator wants one type a set, hence two sets where both are named.
    """
    zones = [reference("Zone", name) for name in sorted(names) if name.isupper()]
    things = [reference(kind, name) for name in sorted(names) if not name.isupper()]
    tests = [f"{variable} in [{', '.join(found)}]" for found in (zones, things) if found]
    return tests[0] if len(tests) == 1 else f"({' || '.join(tests)})"


def texts(words: Iterable[str]) -> str:
    return "[" + ", ".join(json.dumps(word) for word in sorted(words)) + "]"


def cedar_text(text: str) -> str:
    """Free text as a Cedar string: its escapes are not JSON's, so only quotes and backslashes are escaped."""
    plain = " ".join(text.split())
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
