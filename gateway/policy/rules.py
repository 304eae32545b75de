"""One residency rule: what it permits or forbids, and the whole condition language.

Every key of a condition must hold (AND). There is no negation, pattern, expression, time or I/O, so that
each rule holds or does not hold for an equivalence class of facts and for a place, once and for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.places import Action

DEFAULT_DENY: Final = "default-deny"
MODEL_NOT_SERVED: Final = "model-not-served"
ACTION_NOT_OFFERED: Final = "action-not-offered"
STALE_FACTS: Final = "stale-facts"
UNKNOWN_PLACE: Final = "unknown-place"

# Why something is refused when no written rule says so; no rule may take one of these names.
RESERVED_RULE_IDS: Final = frozenset(
    {DEFAULT_DENY, MODEL_NOT_SERVED, ACTION_NOT_OFFERED, STALE_FACTS, UNKNOWN_PLACE}
)


class Effect(StrEnum):
    PERMIT = "permit"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True)
class PlaceCondition:
    """What a rule asks of a place. None: not asked.

    `place_in` holds zones (upper case) or place ids (lower case), any of which suffices.
    `operator_under` holds legal regimes, any of which suffices. `attested` must all be there.
    """

    place_in: frozenset[str] | None = None
    operator_under: frozenset[str] | None = None
    attested: frozenset[str] | None = None

    @property
    def empty(self) -> bool:
        return self.place_in is None and self.operator_under is None and self.attested is None


@dataclass(frozen=True, slots=True)
class FactCondition:
    """What a rule asks of the facts. None: not asked.

    `tenant_in` holds zones (upper case) or tenant ids (lower case), any of which suffices.
    """

    tenant_in: frozenset[str] | None = None
    purpose_in: frozenset[str] | None = None
    model_in: frozenset[str] | None = None
    sensitivity_at_least: str | None = None
    labels_any: frozenset[str] | None = None
    labels_all: frozenset[str] | None = None

    @property
    def names_labels(self) -> bool:
        """Whether the condition looks at what the request carries."""
        return not (self.sensitivity_at_least is None and self.labels_any is None and self.labels_all is None)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of `residency/`; `file` and `line` say where it is written."""

    id: str
    effect: Effect
    actions: frozenset[Action]
    facts: FactCondition
    place: PlaceCondition
    unless: PlaceCondition
    basis: str | None
    description: str
    file: str
    line: int
