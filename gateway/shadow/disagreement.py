"""How two judgements of one request differ, in words that hold nothing of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from gateway.shadow.judgement import Grant, Judgement

Kind = Literal[
    "newly_allowed", "newly_refused", "wider", "narrower", "other_places", "other_first", "other_labels",
    "other_refusal",
]  # fmt: skip
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
LOOSENING: Final[frozenset[Kind]] = frozenset({"newly_allowed", "wider", "other_places"})


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What the candidate does otherwise with a group of requests: those of one model, country and labels that
    both bundles decide by the same rules.

    `gained` and `lost` are what only the candidate, or only the live bundle, permits: `infer at paris`.
    """

    kind: Kind
    model: str | None
    zone: str | None
    labels: tuple[str, ...]
    live: str  # where it goes first, or the code that it is refused with
    live_rule: str | None
    candidate: str
    candidate_rule: str | None
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def disagreement(live: Judgement, candidate: Judgement) -> Disagreement | None:
    """None where the candidate would do as the live bundle does."""
    kind = kind_of(live, candidate)
    if kind is None:
        return None
    return Disagreement(
        kind,
        live.model or candidate.model,
        live.zone or candidate.zone,
        live.labels or candidate.labels,
        said(live),
        live.rule,
        said(candidate),
        candidate.rule,
        in_words(candidate.grants - live.grants),
        in_words(live.grants - candidate.grants),
    )


def kind_of(live: Judgement, candidate: Judgement) -> Kind | None:
    if live.refused is not None and candidate.refused is not None:
        same = (live.refused, live.rule) == (candidate.refused, candidate.rule)
        return None if same else "other_refusal"
    if live.refused is not None:
        return "newly_allowed"
    if candidate.refused is not None:
        return "newly_refused"
    gained, lost = candidate.grants - live.grants, live.grants - candidate.grants
    if gained or lost:
        return "other_places" if gained and lost else "wider" if gained else "narrower"
    if live.first != candidate.first:
        return "other_first"
    return "other_labels" if live.labels != candidate.labels else None


def said(judgement: Judgement) -> str:
    return judgement.refused or judgement.first or "nowhere now"


def in_words(grants: Iterable[Grant]) -> tuple[str, ...]:
    return tuple(f"{action} at {place}" for action, place in sorted(grants))
