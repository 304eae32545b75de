"""Runs the examples of a bundle against its table: the right outcome by the wrong rule is a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.policy.bundle import Bundle
from gateway.policy.permit import Permitted, permit
from gateway.policy.source.cases import Case


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case. `failures` is empty when it passed; `decided_by` holds the rules that its places met."""

    case: Case
    failures: tuple[str, ...]
    decided_by: frozenset[str]

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True, slots=True)
class Run:
    """All cases of a bundle, and the rules that none of them exercised."""

    results: tuple[CaseResult, ...]
    unexercised: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(result.passed for result in self.results)

    def failures(self) -> tuple[str, ...]:
        """One text for each failing case; one that says so when there is no case at all."""
        if not self.results:
            return ("no case was found; add one under `tests/`",)
        return tuple(
            f"{result.case.file}:{result.case.line}: {result.case.name}: {'; '.join(result.failures)}"
            for result in self.results
            if not result.passed
        )

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "passed": self.passed,
            "cases": [
                {
                    "name": result.case.name,
                    "file": result.case.file,
                    "line": result.case.line,
                    "passed": result.passed,
                    "failures": list(result.failures),
                }
                for result in self.results
            ],
            "rules_no_case_exercised": list(self.unexercised),
        }


def run_cases(bundle: Bundle, cases: tuple[Case, ...]) -> Run:
    """The result of every case, in order."""
    results = tuple(run_case(bundle, case) for case in cases)
    met = {rule for result in results for rule in result.decided_by}
    return Run(results, tuple(rule.id for rule in bundle.rules if rule.id not in met))


def run_case(bundle: Bundle, case: Case) -> CaseResult:
    """Holds one case against the production decision."""
    permitted = permit(case.facts, bundle)
    failures = []
    decided_by = set()
    for expected in case.expected:
        verdict = permitted.verdict(expected.action, expected.place)
        decided_by.add(verdict.rule)
        what = f"`{expected.action}` at `{expected.place}`"
        if verdict.allowed is not expected.allowed:
            failures.append(
                f"{what} was to be {word(expected.allowed)}, but `{verdict.rule}` "
                f"{decides(verdict.allowed)} it ({values(permitted)})"
            )
        elif expected.rule and verdict.rule != expected.rule:
            failures.append(
                f"{what} is {word(verdict.allowed)} as expected, "
                f"but by `{verdict.rule}`, not `{expected.rule}`"
            )
    for action, wanted in case.exactly.items():
        more = sorted(permitted.places[action] - wanted)
        if more:
            failures.append(f"`{action}` is also permitted at `{', '.join(more)}`")
    return CaseResult(case, tuple(failures), frozenset(decided_by))


def word(allowed: bool) -> str:
    return "permitted" if allowed else "denied"


def decides(allowed: bool) -> str:
    return "permits" if allowed else "denies"


def values(permitted: Permitted) -> str:
    """The values that the rules saw."""
    facts = permitted.facts
    return (
        f"tenant `{facts.tenant}` in `{facts.zone}`, labels `{', '.join(facts.labels.names())}`, "
        f"purpose `{facts.purpose}`, model `{facts.model}`"
    )
