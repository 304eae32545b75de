"""What a proof finds: for each claim that it holds, or the smallest request that breaks it, and the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.claims import Claim
from gateway.policy.permit import Verdict
from gateway.policy.problems import Problem
from gateway.policy.requests import Who


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides about one action at one place. Without `file` and `line` it is no written rule."""

    action: Action
    place: str
    verdict: Verdict
    file: str
    line: int

    def text(self) -> str:
        decides = "permitted" if self.verdict.allowed else "denied"
        where = f" ({self.file}:{self.line})" if self.file else ""
        return f"`{self.action}` at `{self.place}` is {decides} by `{self.verdict.rule}`{where}"

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "action": self.action.value,
            "place": self.place,
            "allowed": self.verdict.allowed,
            "rule": self.verdict.rule,
            "basis": self.verdict.basis,
            "file": self.file or None,
            "line": self.line or None,
        }


@dataclass(frozen=True, slots=True)
class Witness:
    """The smallest request that breaks a claim.

    `place` is where a `never` is broken; None for an `always`. `entrance` is the gateway that it comes in at;
    None when no gateway may read it, or the claim is not about answers. `rules` holds the permit that lets a
    `never` happen; of an `always`, what stands against it at each place that could have served.
    """

    who: Who
    purpose: str
    model: str
    labels: Labels
    action: Action
    place: str | None
    entrance: str | None
    rules: tuple[Standing, ...]

    def request(self) -> str:
        """The request in words."""
        tenant = f"tenant `{self.who.tenant}`" if self.who.tenant else "any tenant"
        entrance = f", coming in at `{self.entrance}`" if self.entrance else ""
        return (
            f"{tenant} in `{self.who.zone}`, labels `{', '.join(self.labels.names())}`, "
            f"purpose `{self.purpose}`, model `{self.model}`{entrance}"
        )

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "tenant": self.who.tenant or None,
            "zone": self.who.zone,
            "purpose": self.purpose,
            "model": self.model,
            "labels": list(self.labels.names()),
            "action": self.action.value,
            "place": self.place,
            "entrance": self.entrance,
            "rules": [standing.wire() for standing in self.rules],
        }


@dataclass(frozen=True, slots=True)
class Result:
    """One claim: how many classes of requests it was held against, and what breaks it."""

    claim: Claim
    classes: int
    witness: Witness | None

    @property
    def holds(self) -> bool:
        return self.witness is None

    def problem(self) -> Problem | None:
        """What whoever loads the bundle reads; None when the claim holds."""
        if self.witness is None:
            return None
        against = (
            "; ".join(standing.text() for standing in self.witness.rules) or "no place could do it at all"
        )
        message = f"the claim `{self.claim.id}` does not hold for {self.witness.request()}: {against}"
        hint = "correct the rule, or the claim if it promises too much"
        return Problem(self.claim.file, self.claim.line, None, message, hint)

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "id": self.claim.id,
            "basis": self.claim.basis,
            "file": self.claim.file,
            "line": self.claim.line,
            "holds": self.holds,
            "classes": self.classes,
            "witness": None if self.witness is None else self.witness.wire(),
        }


@dataclass(frozen=True, slots=True)
class Proof:
    """Every claim of one bundle, in order. `classes` is how many there are of requests in all."""

    results: tuple[Result, ...]
    classes: int
    took_s: float

    @property
    def holds(self) -> bool:
        return all(result.holds for result in self.results)

    def problems(self) -> tuple[Problem, ...]:
        """One for each claim that does not hold."""
        found = (result.problem() for result in self.results)
        return tuple(problem for problem in found if problem is not None)

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "holds": self.holds,
            "classes": self.classes,
            "seconds": round(self.took_s, 3),
            "claims": [result.wire() for result in self.results],
        }
