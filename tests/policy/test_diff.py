"""The difference of two bundles: it agrees with brute force, and what it shows is the smallest there is."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.facts import Facts
from gateway.labels import Vocabulary
from gateway.policy.bundle import Bundle
from gateway.policy.diff import Group, gains
from gateway.policy.lattice import lattice_of
from gateway.policy.reading import knows
from gateway.policy.rules import ACTION_NOT_OFFERED, MODEL_NOT_SERVED
from gateway.policy.senders import Sent, sender_gains
from tests.policy.brute_diff import Gain, Two, points, sendings, sent_gains
from tests.policy.brute_force import BruteForce
from tests.policy.made_up import pairs

# `make prove` sets it, and takes its time.
PROVE = bool(os.environ.get("POLICY_PAIRS"))
PAIRS = int(os.environ.get("POLICY_PAIRS", "40"))
SENDER_PAIRS = 3 * PAIRS // 4

pytestmark = [pytest.mark.larger, pytest.mark.timeout(1800 if PROVE else 180)]

UNKNOWN = {"unknown-tenant", "unknown-purpose", "unknown-model", "unknown-label", "unknown-place"}


def many(count: int) -> settings:
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip


def order(gain: Gain, vocabulary: Vocabulary) -> tuple[object, ...]:
    tenant, zone, purpose, model, labels, action, place = gain
    names = tuple(sorted(labels.categories))
    rank = vocabulary.rank(labels.sensitivity)
    at = (list(type(action)).index(action), place)
    return len(names), rank, names, (tenant == "", tenant, zone), purpose, model, at


def requests_of(group: Group, vocabulary: Vocabulary) -> set[Gain]:
    """Every request that a group speaks of, when more labels never permit more."""
    between = [
        labels
        for labels in points(vocabulary)
        if any(vocabulary.within(least, labels) for least in group.labels_from)
        and any(vocabulary.within(labels, most) for most in group.labels_to)
    ]
    return {
        (who.tenant, who.zone, purpose, model, labels, group.action, place)
        for who, purpose, model, labels, place in itertools.product(
            group.whos, group.purposes, group.models, between, group.places
        )
    }


def unlike(one: Iterable[object], other: Iterable[object]) -> list[object]:
    """A few of what only one of two sets has: sets of thousands take pytest minutes to compare in words."""
    return sorted(set(one) ^ set(other), key=repr)[:3]


def smallest_of(group: Group) -> Gain:
    change = group.smallest
    return (
        change.who.tenant, change.who.zone, change.purpose, change.model, change.labels,
        change.after.action, change.after.place,
    )  # fmt: skip


def among(group: Group, found: set[Gain]) -> set[Gain]:
    """Those of `found` that the group is about, whatever their labels."""
    whos = {(who.tenant, who.zone) for who in group.whos}
    return {
        gain for gain in found
        if gain[:2] in whos and gain[2] in group.purposes and gain[3] in group.models
        and gain[5] is group.action and gain[6] in group.places
    }  # fmt: skip


def right_rules(group: Group, two: Two) -> bool:
    """The rules that decide about the smallest request are those of the reference, on both sides."""
    change = group.smallest
    facts = Facts(change.who.tenant, change.who.zone, change.purpose, change.model, change.labels)
    at = (change.after.action, change.after.place)
    before = two.rule(two.before, two.as_before(facts), *at)
    said = change.before.verdict.rule
    if before is None:
        return said in UNKNOWN | {MODEL_NOT_SERVED, ACTION_NOT_OFFERED} and change.after.verdict.allowed
    return (said, change.after.verdict.rule) == (before, two.rule(two.after, facts, *at))


def test_the_difference_agrees_with_brute_force_on_made_up_pairs_of_bundles() -> None:
    """What is newly allowed, what newly denied, the smallest request of each group, and what decides."""
    seen: Counter[str] = Counter()

    @many(PAIRS)
    @given(st.data())
    def agrees(data: st.DataObject) -> None:
        antitone = data.draw(st.integers(0, 3)) > 0
        one, other = data.draw(pairs(labels_in_permits=not antitone))
        sides = BruteForce(one), BruteForce(other)
        for before, after in (sides, sides[::-1]):
            two = Two(before, after)
            expected = two.gains()
            found = gains(before.bundle, after.bundle)
            vocabulary = after.bundle.vocabulary
            if antitone:
                spoken = [requests_of(group, vocabulary) for group in found]
                assert not unlike(set().union(*spoken), expected)
                assert sum(len(each) for each in spoken) == len(expected)  # each request in one group alone
            assert bool(found) is bool(expected)
            for group in found:
                whole = among(group, expected)
                own = requests_of(group, vocabulary) & whole if antitone else {smallest_of(group)} & whole
                assert smallest_of(group) == min(own, key=lambda gain: order(gain, vocabulary))
                assert right_rules(group, two)
            if found:
                # The first group has the smallest request of all.
                assert smallest_of(found[0]) == min(expected, key=lambda gain: order(gain, vocabulary))
            seen["something" if found else "nothing"] += 1
            seen["moved"] += any(group.smallest.moved for group in found)
            seen["unknown"] += any(group.smallest.before.verdict.rule in UNKNOWN for group in found)
            seen["beyond the least labels"] += any(
                group.smallest.labels != vocabulary.lowest for group in found
            )

    agrees()

    assert all(
        seen[kind] >= PAIRS // 25
        for kind in ("something", "nothing", "moved", "unknown", "beyond the least labels")
    ), seen


def test_no_request_of_any_caller_gains_what_the_difference_does_not_show() -> None:
    """Also of those whose conversation carried something, or nobody knows what; and nothing is made up."""
    seen: Counter[str] = Counter()

    @many(SENDER_PAIRS)
    @given(pairs(), st.randoms(use_true_random=False))
    def agrees(both: tuple[Bundle, Bundle], chance: random.Random) -> None:
        two = Two(BruteForce(both[0]), BruteForce(both[1]))
        by_rules = two.gains()
        groups = sender_gains(*both)
        shown = {(group.tenant, group.key, group.action, place) for group in groups for place in group.places}
        exactly: set[tuple[str, str, Sent, object, object]] = set()
        every = points(both[1].vocabulary)
        for sending in sendings(two, every if PROVE else chance.sample(every, 2)):
            facts, cells = sent_gains(two, sending)
            if facts is None:
                continue
            at = (facts.tenant, facts.zone, facts.purpose, facts.model, facts.labels)
            if sending.header is not None and not knows(both[0].vocabulary, sending.header):
                # A word that was refused: what it is permitted by itself is shown among the rules' gains.
                assert {(*at[:4], *cell) for cell in cells} <= {(*one[:4], *one[5:]) for one in by_rules}
                continue
            rest = {cell for cell in cells if (*at, *cell) not in by_rules}
            # Some request of this caller is shown to gain this, though perhaps another than this one.
            assert {(sending.tenant, sending.key, *cell) for cell in rest} <= shown, sending
            if sending.taint is None and (sending.header is None or not sending.unreadable):
                sent = (
                    Sent.UNREADABLE if sending.unreadable
                    else Sent.NOTHING if sending.header is None else Sent.DECLARED
                )  # fmt: skip
                exactly |= {(sending.tenant, sending.key, sent, sending.model, cell) for cell in rest}
                seen[sent] += bool(rest)
        told = {
            (group.tenant, group.key, group.sent, model, (group.action, place))
            for group in groups
            for model in group.models
            for place in group.places
        }
        assert not unlike(told, exactly)
        seen["nothing"] += not groups

    agrees()

    assert all(seen[kind] >= max(1, SENDER_PAIRS // 20) for kind in (*Sent, "nothing")), seen


def test_a_word_of_the_scale_that_was_not_there_parts_a_group_in_two() -> None:
    """`low` was permitted before, `none` was not there, and with `x` nothing was: a group from `none` to
    `high` with `x` would speak of `low` too."""
    vocabulary = Vocabulary(("none", "low", "high"), frozenset({"x"}), frozenset({"work"}))
    lattice = lattice_of(vocabulary)

    def named(points: int) -> list[str]:
        return [" ".join(labels.names()) for labels in lattice.in_order(points)]

    new, x = lattice.everything & ~lattice.from_rank[1], lattice.with_category["x"]

    assert [named(part) for part in lattice.convex(new | x)] == [["none", "none x"], ["low x", "high x"]]
    assert [named(part) for part in lattice.convex(x)] == [["none x", "low x", "high x"]]
    assert [named(part) for part in lattice.convex(0)] == []
