"""What a search must have seen before finding nothing means anything."""

from __future__ import annotations

from collections import Counter

from gateway.routing.kind import KINDS

PLACES = ("place_in", "operator_under", "attested")
FACTS = ("tenant_in", "purpose_in", "model_in")
LABELS = ("labels_any", "labels_all", "sensitivity_at_least")

# A permit may not depend on labels: a bundle in which one does is one where more labels permit more, and it
# does not load. So there is no `permit when labels_any`.
RULES = (
    "permit always",
    *(f"permit when {key}" for key in (*FACTS, *PLACES)),
    *(f"permit unless {key}" for key in PLACES),
    *(f"forbid when {key}" for key in (*FACTS, *LABELS, *PLACES)),
    *(f"forbid unless {key}" for key in PLACES),
    "none decides",
)
AT_LEAST = {
    **{f"attempt: {kind}": 200 for kind in KINDS},
    **{f"rule: {kind}": 50 for kind in RULES},
    "attempt withdrawn": 100,
    "swap withdraws": 200,
    "cache hit": 80,
    "cache written": 500,
    "receipt kept": 500,
    "content logged": 500,
    "digests logged": 200,
    "taint corrected": 500,
    "stream cut": 40,
    "store out": 60,
    "audit failed": 200,
}  # in so many cases:
OF_CASES = 10_000


def missing(seen: Counter[str], cases: int) -> list[str]:
    """What was seen too seldom for so many cases, each with its count."""
    # Fewer cases are met less evenly: what is seldom may then be a quarter more seldom.
    share = 1.0 if cases >= OF_CASES else 0.75 * cases / OF_CASES
    wanted = {what: max(1, int(least * share)) for what, least in AT_LEAST.items()}
    short = [
        f"{what}: {seen[what]} of at least {least}" for what, least in wanted.items() if seen[what] < least
    ]
    for what in ("permitted", "refused"):
        if seen[what] < 0.3 * seen["cases"]:
            short.append(f"{what}: {seen[what]} of {seen['cases']}, less than 30 %")
    if seen["cases"] < cases:
        short.append(f"cases: {seen['cases']} of {cases}")
    return short


def report(seen: Counter[str]) -> str:
    """Everything that was counted, a line each."""
    return "\n".join(f"{count:8} {what}" for what, count in sorted(seen.items()))
