"""What was considered for a request, for its record: each place with the rule that decided about it, and the
numbers that the plan saw.

The verdicts depend on the class of the request alone, so they are worked out once for each class. What is
left for each request is a row of numbers for each place of its route.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from gateway.audit.records import Considered
from gateway.places import BACKEND_KINDS, Action
from gateway.policy.bundle import Bundle
from gateway.policy.permit import Permitted
from gateway.routing.health import FAILURES_TO_OPEN
from gateway.routing.plan import Decision, Seen
from gateway.settings import Settings

CLASSES_REMEMBERED: Final = 1024
USUAL_WEIGHT: Final = 100
READ: Final = "read"  # `infer` at a gateway, which reads a request and answers none

Need = tuple[Action, str]
Rows = tuple[str, ...]


def needs_of(settings: Settings, store_place: str | None) -> tuple[Need, ...]:
    """What this gateway itself does with every request, and where: it reads, records and counts it."""
    needed: list[Need] = [(Action.RECORD, place) for place in audit_places(settings)]
    needed.append((Action.INFER, settings.gateway_place))
    if store_place is not None:  # it counts what was used, and remembers labels
        needed.append((Action.RECORD, store_place))
    if settings.terminator_place is not None:
        needed.append((Action.INFER, settings.terminator_place))
    return tuple(needed)


def audit_places(settings: Settings) -> tuple[str, ...]:
    """Where an audit record lands."""
    if settings.audit_s3_place is None:
        return (settings.audit_place,)
    return (settings.audit_place, settings.audit_s3_place)


class Verdicts:
    """Allowed and denied rows by class of request; what a bounded number of classes needs is remembered."""

    def __init__(self, needs: Iterable[Need], store_place: str | None) -> None:
        self._needs = tuple(needs)
        self._store: tuple[Need, ...] = ((Action.CACHE, store_place),) if store_place is not None else ()
        self._known: dict[tuple[str, str, int | None], tuple[Rows, Rows]] = {}

    def of(self, permitted: Permitted, bundle: Bundle) -> tuple[Rows, Rows]:
        """Rows of rule, action and places: where an action is allowed, and where it is denied."""
        known = self._known.get(permitted.judged_as)
        if known is None:
            if len(self._known) >= CLASSES_REMEMBERED:
                self._known.clear()  # of a revision that is gone, most likely
            known = self._known[permitted.judged_as] = self._work_out(permitted, bundle)
        return known

    def _work_out(self, permitted: Permitted, bundle: Bundle) -> tuple[Rows, Rows]:
        rows: dict[tuple[bool, str, str], list[str]] = {}
        backends = (
            (Action.INFER, place) for place, one in bundle.places.items() if one.kind in BACKEND_KINDS
        )
        for action, place in (*backends, *self._needs, *self._store):
            verdict = permitted.verdict(action, place)
            kind = bundle.places[place].kind if place in bundle.places else None
            word = READ if action is Action.INFER and kind not in BACKEND_KINDS else str(action)
            rows.setdefault((verdict.allowed, verdict.rule, word), []).append(place)
        allowed, denied = (
            tuple(
                " ".join((rule, action, *places))
                for (held, rule, action), places in rows.items()
                if held is wanted
            )
            for wanted in (True, False)
        )
        return allowed, denied


def considered_of(
    permitted: Permitted, decision: Decision | None, bundle: Bundle, verdicts: Verdicts
) -> Considered:
    """All of it; without a decision (a cached answer, a refusal at the door) there are no numbers."""
    allowed, denied = verdicts.of(permitted, bundle)
    if decision is None:
        return Considered(allowed, denied)
    return Considered(
        allowed,
        denied,
        decision.route,
        tuple(" ".join((one.place, one.reason, *one.parameters)) for one in decision.skipped),
        tuple(numbers_of(seen, decision.planned_s) for seen in decision.seen),
    )


def numbers_of(seen: Seen, now_s: float) -> str:
    """A place, its tier from 1, and what was not as usual there: a weight other than 100, and numbers above
    zero."""
    tier, hop, state = seen
    row = f"{hop.place} tier={tier + 1}"
    if hop.weight != USUAL_WEIGHT:
        row += f" weight={hop.weight}"
    if hop.spill_when_waiting_over is not None:
        row += f" spill_over={hop.spill_when_waiting_over}"
    if state.failures:
        row += f" failures={state.failures}"
        open_s = state.open_until_s - now_s
        if state.failures >= FAILURES_TO_OPEN and open_s > 0:
            row += f" open_ms={math.ceil(open_s * 1000)}"
    if state.trial_running:
        row += " trial=1"
    if state.in_flight:
        row += f" in_flight={state.in_flight}"
    if state.slots:
        row += f" slots={state.slots}"
    if state.queued:
        row += f" queued={state.queued}"
    return row
