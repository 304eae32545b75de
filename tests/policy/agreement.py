"""Holds the table against Cedar, decision by decision."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cedarpy

from gateway.facts import Facts
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.cedar import cedar_request
from gateway.policy.permit import Permitted, permit
from gateway.policy.rules import DEFAULT_DENY

BATCH = 2_000

Question = tuple[Facts, Action, str]
Answer = tuple[bool, frozenset[str]]
Permit = Callable[[Facts, Bundle], Permitted]


@dataclass(frozen=True, slots=True)
class Cedar:
    """A policy set with its entities, parsed once."""

    policies: cedarpy.PolicySet
    entities: cedarpy.Entities

    @classmethod
    def of(cls, policies: str, entities: Iterable[Any]) -> Cedar:
        return cls(
            cedarpy.PolicySet.from_str(policies), cedarpy.Entities.from_json_str(json.dumps(list(entities)))
        )

    def answers(self, questions: Iterable[Question], bundle: Bundle) -> Iterator[tuple[Question, Answer]]:
        """For each question: whether Cedar allows it, and the ids of the policies that decided."""
        source = iter(questions)
        while batch := list(itertools.islice(source, BATCH)):
            requests = [cedar_request(*question, bundle.vocabulary) for question in batch]
            results = cedarpy.is_authorized_batch(requests, self.policies, self.entities)
            for question, result in zip(batch, results, strict=True):
                assert not result.diagnostics.errors, result.diagnostics.errors
                named = result.diagnostics.id_annotations_by_reason
                assert set(named) == set(result.diagnostics.reasons)
                yield question, (result.allowed, frozenset(named.values()))


def questions(bundle: Bundle, facts: Iterable[Facts], *, offered: bool = False) -> Iterator[Question]:
    """Every action at every place (only those that the place's kind offers), for each of these facts."""
    pairs = [
        (action, place.id)
        for action, place in itertools.product(Action, bundle.places.values())
        if action in place.actions or not offered
    ]
    return ((one, action, place) for one, (action, place) in itertools.product(facts, pairs))


def disagreements(
    answers: Iterable[tuple[Question, Answer]], bundle: Bundle, decide: Permit = permit
) -> Iterator[str]:
    """Each question on which the table and Cedar differ, in the outcome or in the rule that decides it.

    Where several rules decide alike, Cedar names them all, and the table the first, which must be among them.
    """
    last: Permitted | None = None
    for (facts, action, place), (allowed, reasons) in answers:
        if last is None or last.facts is not facts:
            last = decide(facts, bundle)
        verdict = last.verdict(action, place)
        ours = frozenset({verdict.rule}) - {DEFAULT_DENY}
        if (
            verdict.allowed is not allowed
            or last.allows(action, place) is not allowed
            or not ours <= reasons
            or (not ours and reasons)
        ):
            yield (
                f"{action} at {place} for {facts}: table {verdict.allowed} by {verdict.rule}, "
                f"Cedar {allowed} by {sorted(reasons)}"
            )
