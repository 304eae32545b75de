"""What one bundle says of a request, from what was known when it ended. Pure: states and time are arguments.

The live bundle and the candidate are both asked here, in the same way and at the same moment: whatever
differs between their answers differs because the bundles do.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from gateway.auth import authenticate
from gateway.errors import DouaneError, ModelNotAllowed, ResidencyDenied
from gateway.facts import Facts, above_ceiling, collect_facts
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.permit import Permitted, permit
from gateway.routing.health import BackendState
from gateway.routing.plan import plan
from gateway.taints import known_taint

Grant = tuple[str, str]  # an action, and the place where it may happen
NOTHING: Final[frozenset[Grant]] = frozenset()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as either bundle is asked about it. `past` are the labels that its conversation brought,
    `detected` the kinds of things that detectors found in it."""

    authorization: str | None
    model: str
    declared: str | None
    past: frozenset[str]
    detected: tuple[str, ...]
    unable: Mapping[str, tuple[str, ...]]
    affinity: str


@dataclass(frozen=True, slots=True)
class Here:
    """What does not depend on the bundle: who this gateway is, which backends it has, how they are.

    `configured` are the places with a backend; one that only the other bundle has is taken as configured.
    `needed` are the actions that a request takes in the gateway itself, each with its place.
    """

    demo_keys: Mapping[str, str]
    configured: Set[str]
    known: Set[str]
    needed: tuple[tuple[Action, str], ...]
    states: Mapping[str, BackendState]
    now_s: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """`refused` is an error's code, None for a request that may go on; `rule` what decided, where a rule did.

    `grants` are all that may happen and where, `first` the place that would be tried first.
    """

    refused: str | None
    rule: str | None = None
    model: str | None = None
    zone: str | None = None
    labels: tuple[str, ...] = ()
    grants: frozenset[Grant] = NOTHING
    first: str | None = None


def judge(asked: Asked, bundle: Bundle, here: Here) -> Judgement:
    """What `bundle` would do with the request. Raises nothing that a bundle or a request can bring about."""
    facts: Facts | None = None
    try:
        caller = authenticate(asked.authorization, bundle, here.demo_keys)
        model = bundle.routes.canonical(asked.model)
        if caller.models is not None and model not in caller.models:
            return Judgement(ModelNotAllowed.code, model=model, zone=caller.zone)
        words = bundle.vocabulary
        declared = words.parse(asked.declared) if asked.declared is not None else None
        past = known_taint(asked.past, words, caller)
        found = None
        if bundle.detectors is not None and asked.detected:
            found = bundle.detectors.labels_of(asked.detected, words)
        facts = collect_facts(caller, model, declared, past, found, words)
        if above_ceiling(facts, caller, words):
            return refused_for(facts, None)
    except DouaneError as error:
        return Judgement(error.code)
    permitted = permit(facts, bundle)
    for action, place in here.needed:
        if not permitted.allows(action, place):
            return refused_for(facts, permitted.verdict(action, place).rule)
    configured = here.configured | (bundle.places.keys() - here.known)
    decision = plan(
        permitted, bundle.routes.for_model(facts.model, facts.zone), bundle.places, configured, asked.unable,
        here.states, here.now_s, asked.affinity,
    )  # fmt: skip
    if not decision.attempts and all(one.reason == "unconfigured" for one in decision.skipped):
        return refused_for(facts, denying_rule(permitted, bundle, configured))
    first = decision.attempts[0].place.id if decision.attempts else None
    rule = permitted.verdict(Action.INFER, first).rule if first is not None else None
    return Judgement(
        None, rule, facts.model, facts.zone, facts.labels.names(), grants_of(permitted, configured), first
    )


def grants_of(permitted: Permitted, configured: Set[str]) -> frozenset[Grant]:
    """Where what may happen: of places that answer, only those that have a backend here."""
    return frozenset(
        (str(action), place)
        for action in Action
        for place in permitted.places[action]
        if action is not Action.INFER or place in configured
    )


def denying_rule(permitted: Permitted, bundle: Bundle, configured: Set[str]) -> str | None:
    """The rule that denies the first of the configured places; None where the bundle has none of them."""
    places = sorted(configured & bundle.places.keys())
    denied = (permitted.verdict(Action.INFER, place) for place in places)
    return next((verdict.rule for verdict in denied if not verdict.allowed), None)


def refused_for(facts: Facts, rule: str | None) -> Judgement:
    return Judgement(ResidencyDenied.code, rule, facts.model, facts.zone, facts.labels.names())
