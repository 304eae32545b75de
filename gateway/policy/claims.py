"""A claim: a statement about a bundle that must hold for every request that there could be.

Rules say what may happen; a claim says what whoever answers for them relies on. Claims decide nothing. They
are written in the rules' own conditions, so that each can be proven by going through all cases.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.rules import FactCondition, PlaceCondition


@dataclass(frozen=True, slots=True)
class Never:
    """None of `actions` is permitted at any place that meets `at` and does not meet `outside`.

    An empty `outside` leaves no place out.
    """

    actions: frozenset[Action]
    at: PlaceCondition
    outside: PlaceCondition


@dataclass(frozen=True, slots=True)
class Always:
    """`action` is permitted at one place or more that meets `at_least_one`.

    With `denied_at`, only requests for which the action is denied at every place that meets it; with
    `denied_outside`, at every place that does not meet it. For `infer` the places are backends that serve the
    model, and a request counts as served only where some sink may record it and the gateway that it comes in
    at may read it: any of those that meet `entering_at`.
    """

    action: Action
    at_least_one: PlaceCondition
    denied_at: PlaceCondition
    denied_outside: PlaceCondition
    entering_at: PlaceCondition


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of `claims.yaml`: what it `says` of requests that meet `facts` and carry nothing above
    `at_most`; None is no bound. `file` and `line` say where it is written.
    """

    id: str
    says: Never | Always
    facts: FactCondition
    at_most: Labels | None
    basis: str
    description: str
    file: str
    line: int
