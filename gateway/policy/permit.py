"""The decision: where each action may happen for these facts. Pure: no clock, no I/O, no availability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from gateway.facts import Facts
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.compile import Outcome, Table
from gateway.policy.rules import (
    ACTION_NOT_OFFERED,
    DEFAULT_DENY,
    MODEL_NOT_SERVED,
    STALE_FACTS,
    UNKNOWN_PLACE,
)

NOWHERE: Final = Outcome(
    places=MappingProxyType({action: frozenset() for action in Action}),
    entrances=frozenset(),
    digest="nowhere",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an action may or may not happen at a place: the deciding rule and its legal basis.

    `rule` is the id of a written rule, or one of `RESERVED_RULE_IDS` when no written rule decides.
    """

    allowed: bool
    rule: str
    basis: str | None


@dataclass(frozen=True, slots=True)
class Permitted:
    """Where each action may happen for these facts under one revision.

    `places` holds what can really be used: for `infer`, the backends that serve the model. `entrances` holds
    the gateways that may read the request. `digest` is a short stable hash of both: requests with
    the same digest may use the same places.
    """

    facts: Facts
    revision: str
    places: Mapping[Action, frozenset[str]] = field(hash=False)
    entrances: frozenset[str]
    digest: str
    _applying: int | None = field(repr=False, compare=False)  # None: the facts are not of this revision
    _bundle: Bundle = field(repr=False, compare=False)

    @property
    def judged_as(self) -> tuple[str, str, int | None]:
        """Requests that are judged as the same have the same verdict everywhere: revision, model, rules."""
        return self.revision, self.facts.model, self._applying

    @property
    def recordable(self) -> bool:
        """Whether metadata may be recorded anywhere; a request that may not be recorded is refused."""
        return bool(self.places[Action.RECORD])

    def allows(self, action: Action, place_id: str) -> bool:
        """Whether `action` may happen at this place. An id that the revision does not have: False."""
        return place_id in self.places[action] or (action is Action.INFER and place_id in self.entrances)

    def verdict(self, action: Action, place_id: str) -> Verdict:
        """What decides about `action` at this place; `allowed` always equals `allows`."""
        if place_id not in self._bundle.places:
            return Verdict(False, UNKNOWN_PLACE, None)
        if self._applying is None:
            return Verdict(False, STALE_FACTS, None)
        return verdict_at(self._bundle, self.facts.model, self._applying, action, place_id)


def permit(facts: Facts, bundle: Bundle) -> Permitted:
    """Where each action may happen for these facts: five look-ups in the bundle's table.

    Facts that this revision does not know (a tenant, country, purpose, model or label that it lacks, as when
    a request outlives the revision it came in under) are permitted nowhere.
    """
    table = bundle.table
    applying: int | None
    try:
        applying = (
            table.tenants[facts.tenant, facts.zone]
            & table.purposes[facts.purpose]
            & table.models[facts.model]
            & table.labels[facts.labels]
        )
        found = table.outcome(facts.model, applying)
    except KeyError:
        applying, found = None, NOWHERE
    return Permitted(facts, bundle.revision, found.places, found.entrances, found.digest, applying, bundle)


def verdict_at(bundle: Bundle, model: str, applying: int, action: Action, place_id: str) -> Verdict:
    """What decides about `action` at a place of the bundle when just the rules of `applying` apply."""
    place = bundle.places[place_id]
    if action not in place.actions:
        return Verdict(False, ACTION_NOT_OFFERED, None)
    if not place.offers(action, model):
        return Verdict(False, MODEL_NOT_SERVED, None)
    return deciding(bundle.table, applying, action, place_id)


def deciding(table: Table, applying: int, action: Action, place_id: str) -> Verdict:
    """The first applying forbid that names the place, else the first permit, else default deny."""
    cell = table.cell(action, place_id)
    first_permit: Verdict | None = None
    for index, rule in enumerate(table.rules):
        if applying >> index & 1 and table.masks[index] & cell:
            if table.forbids >> index & 1:
                return Verdict(False, rule.id, rule.basis)
            if first_permit is None:
                first_permit = Verdict(True, rule.id, rule.basis)
    return first_permit if first_permit is not None else Verdict(False, DEFAULT_DENY, None)
