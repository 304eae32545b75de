"""Proves the claims of a bundle, or finds the smallest request that breaks one: by going through all cases.

Sound and complete: a claim holds just when no request that there could be breaks it, and the witness of one
that does not hold is the smallest there is. Smallest: the fewest categories, the lowest sensitivity, then
whatever comes first of the names of the labels, tenant (those of the bundle, then countries), purpose, model,
action and place.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.claims import Always, Claim, Never
from gateway.policy.lattice import join, ones
from gateway.policy.permit import verdict_at
from gateway.policy.requests import Asked, Requests, requests_of
from gateway.policy.rules import PlaceCondition
from gateway.policy.witness import Proof, Result, Standing, Witness


@dataclass(frozen=True, slots=True)
class Break:
    """Labels with which a request breaks a claim, and where: as of `Witness`."""

    points: int
    action: Action
    place: str | None
    entrance: str | None


@dataclass(frozen=True, slots=True)
class Broken:
    """The smallest request so far that breaks a claim: the level of its labels, and their bit."""

    level: int
    bit: int
    asked: Asked
    at: Break

    def after(self, level: int, bit: int) -> bool:
        """Whether these labels are smaller. Of equals the first stays: requests are gone through in order."""
        return (level, -bit) < (self.level, -self.bit)


class NeverJudge:
    """Holds requests against a claim that something never happens."""

    entrances: tuple[str | None, ...] = (None,)

    def __init__(self, claim: Claim, says: Never, requests: Requests) -> None:
        self.points = requests.lattice.meeting(claim.facts, claim.at_most)
        places = requests.places(says.at)
        if not says.outside.empty:
            places &= ~requests.places(says.outside)
        self._cells = requests.cells(says.actions, places)
        self._requests = requests

    def breaks(self, asked: Asked) -> Iterator[Break]:
        """Wherever a request of this kind is permitted what should never happen."""
        requests = self._requests
        for cell in ones(self._cells & requests.usable(asked, entrances=True)):
            if points := requests.allowed(cell, asked) & self.points:
                ((action, place),) = requests.bundle.table.named(1 << cell)
                yield Break(points, action, place, None)

    def about(self, asked: Asked) -> int:
        """The labels with which a request of this kind is one that the claim speaks of."""
        return self.points

    def witness(self, broken: Broken) -> Witness:
        """The request, with the permit that lets it."""
        at, requests = broken.at, self._requests
        assert at.place is not None
        stands = standing(requests, broken, at.action, at.place)
        assert stands.verdict.allowed
        doors = (
            door
            for door in requests.entrances
            if standing(requests, broken, Action.INFER, door).verdict.allowed
        )
        return witness_of(broken, requests, next(doors, None), (stands,))


class AlwaysJudge:
    """Holds requests against a claim that something is always permitted somewhere."""

    def __init__(self, claim: Claim, says: Always, requests: Requests) -> None:
        self.points = requests.lattice.meeting(claim.facts, claim.at_most)
        self._requests = requests
        self._action = says.action
        self._candidates = requests.cells([says.action], requests.places(says.at_least_one))
        denied = requests.places(says.denied_at) if not says.denied_at.empty else 0
        if not says.denied_outside.empty:
            denied |= ~requests.places(says.denied_outside) & requests.places(PlaceCondition())
        self._denied = requests.cells([says.action], denied)
        self._records = requests.cells([Action.RECORD], requests.places(PlaceCondition()))
        self.entrances: tuple[str | None, ...] = (None,)
        if says.action is Action.INFER and requests.entrances:
            chosen = requests.places(says.entering_at)
            self.entrances = tuple(door for door in requests.entrances if requests.bit(door) & chosen)

    def breaks(self, asked: Asked) -> Iterator[Break]:
        """At each entrance: the requests of this kind that find no place."""
        requests = self._requests
        usable = requests.usable(asked, entrances=False)
        wanted = self.about(asked)
        served = self._anywhere(self._candidates & usable, asked) if wanted else 0
        if self._action is Action.INFER:
            served &= self._anywhere(self._records & usable, asked)
        for door in self.entrances:
            entering = served
            if door is not None:
                entering &= requests.allowed(requests.cell(Action.INFER, door), asked)
            if points := wanted & ~entering:
                yield Break(points, self._action, None, door)

    def about(self, asked: Asked) -> int:
        """The labels with which a request of this kind is one that the claim speaks of: with `denied_at` or
        `denied_outside`, one that is denied there."""
        usable = self._requests.usable(asked, entrances=False)
        return self.points & ~self._anywhere(self._denied & usable, asked)

    def _anywhere(self, cells: int, asked: Asked) -> int:
        """The labels with which at least one of these cells is permitted."""
        return join(self._requests.allowed(cell, asked) for cell in ones(cells))

    def witness(self, broken: Broken) -> Witness:
        """The request, with what stands against it: at its entrance, at every place, at every sink."""
        at, requests = broken.at, self._requests
        usable = requests.usable(broken.asked, entrances=False)
        needs = [requests.cells([Action.INFER], requests.bit(at.entrance))] if at.entrance is not None else []
        needs.append(self._candidates & usable)
        if self._action is Action.INFER:
            needs.append(self._records & usable)
        against: list[Standing] = []
        for cells in needs:
            found = [standing(requests, broken, *pair) for pair in requests.bundle.table.named(cells)]
            if not any(one.verdict.allowed for one in found):
                against += found
        return witness_of(broken, requests, at.entrance, tuple(against))


def prove(bundle: Bundle, claims: tuple[Claim, ...]) -> Proof:
    """Holds every claim against every request that there could be."""
    began_s = time.perf_counter()
    requests = requests_of(bundle, claims)
    judges = [judge_of(claim, requests) for claim in claims]
    smallest: list[Broken | None] = [None] * len(claims)
    examined = [0] * len(claims)
    kinds = 0
    for asked in requests.asked():
        kinds += 1
        for number in ones(asked.claims):
            examined[number] += 1
            for found in judges[number].breaks(asked):
                smallest[number] = smaller(smallest[number], found, asked, requests)
    points = requests.distinct_points([judge.points for judge in judges])
    results = tuple(
        Result(
            claim,
            count * len(judge.entrances) * sum(judge.points >> point & 1 for point in points),
            None if broken is None else judge.witness(broken),
        )
        for claim, judge, count, broken in zip(claims, judges, examined, smallest, strict=True)
    )
    return Proof(results, kinds * len(points), time.perf_counter() - began_s)


def claims_about(requests: Requests, claims: tuple[Claim, ...]) -> Iterator[tuple[Claim, bool]]:
    """Each claim that `requests` were made with, and whether it speaks of any request at all."""
    asked_of_all = list(requests.asked())
    for number, claim in enumerate(claims):
        judge = judge_of(claim, requests)
        yield claim, any(asked.claims >> number & 1 and judge.about(asked) for asked in asked_of_all)


def judge_of(claim: Claim, requests: Requests) -> NeverJudge | AlwaysJudge:
    if isinstance(claim.says, Never):
        return NeverJudge(claim, claim.says, requests)
    return AlwaysJudge(claim, claim.says, requests)


def smaller(known: Broken | None, found: Break, asked: Asked, requests: Requests) -> Broken | None:
    """The smaller of what is known to break a claim and what was found to."""
    levels = known.level + 1 if known is not None else len(requests.lattice.levels)
    least = requests.lattice.smallest(found.points, levels)
    if least is None or (known is not None and not known.after(*least)):
        return known
    return Broken(*least, asked, found)


def standing(requests: Requests, broken: Broken, action: Action, place: str) -> Standing:
    """What decides about one action at one place for the request that breaks a claim, by the table itself."""
    bundle, asked = requests.bundle, broken.asked
    applying = asked.rules & bundle.table.labels[requests.lattice.labels(broken.bit)]
    verdict = verdict_at(bundle, asked.model.first, applying, action, place)
    rule = next((rule for rule in bundle.rules if rule.id == verdict.rule), None)
    return Standing(action, place, verdict, rule.file if rule else "", rule.line if rule else 0)


def witness_of(
    broken: Broken, requests: Requests, entrance: str | None, rules: tuple[Standing, ...]
) -> Witness:
    asked, at = broken.asked, broken.at
    labels = requests.lattice.labels(broken.bit)
    return Witness(
        asked.who.first, asked.purpose.first, asked.model.first, labels, at.action, at.place, entrance, rules
    )
