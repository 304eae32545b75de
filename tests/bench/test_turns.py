"""Samples are taken in turns, and rounds that others spoiled are taken again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.turns import LIMIT, TRIES, Disturbed, Sample, Series, Take, in_turns


def taker(name: str, asked: list[tuple[str, int]], samples: Iterator[Sample]) -> Take:
    def take(number: int) -> Sample:
        asked.append((name, number))
        return next(samples)

    return take


def steady(seconds: float) -> Iterator[Sample]:
    while True:
        yield Sample(seconds, 0.0)


def test_every_other_round_begins_with_the_other_engine() -> None:
    asked: list[tuple[str, int]] = []
    takers = {name: taker(name, asked, steady(1.0)) for name in ("a", "b")}

    found = in_turns(takers, 3, pause=lambda: None)

    assert asked == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert found == Series({"a": (1.0, 1.0, 1.0), "b": (1.0, 1.0, 1.0)}, rejected=0)


def test_a_round_with_a_spoiled_sample_counts_for_neither_engine() -> None:
    a = iter([Sample(1.0, 0.0), Sample(2.0, 0.0), Sample(3.0, LIMIT)])
    b = iter([Sample(10.0, 0.0), Sample(20.0, LIMIT + 0.001), Sample(30.0, 0.01)])

    found = in_turns({"a": taker("a", [], a), "b": taker("b", [], b)}, 2, pause=lambda: None)

    assert found == Series({"a": (1.0, 3.0), "b": (10.0, 30.0)}, rejected=1)


def test_a_machine_that_never_rests_gives_no_numbers() -> None:
    asked: list[tuple[str, int]] = []
    busy = (Sample(1.0, 0.5) for _ in range(100))

    with pytest.raises(Disturbed, match="up to 50% of the processors: 0 of 2 rounds were undisturbed"):
        in_turns({"a": taker("a", asked, busy)}, 2, pause=lambda: None)

    assert len(asked) == 2 * TRIES


def test_there_is_a_pause_before_each_sample() -> None:
    events: list[tuple[str, int]] = []
    takers = {name: taker(name, events, steady(1.0)) for name in ("a", "b")}

    in_turns(takers, 1, pause=lambda: events.append(("pause", 0)))

    assert events == [("pause", 0), ("a", 0), ("pause", 0), ("b", 0)]


def test_engines_are_compared_within_a_round() -> None:
    # The machine became three times as slow for the last two rounds; the one engine is always twice as fast.
    found = Series({"ours": (1.0, 3.0, 3.0), "theirs": (2.0, 6.0, 6.0)}, rejected=0)

    assert found.ratio("ours", "theirs") == 2.0
    assert found.ratio("theirs", "ours") == 0.5
    assert (found.median("ours"), found.median("theirs")) == (3.0, 6.0)
