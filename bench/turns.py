"""Samples of several engines, taken in turns: what the machine does meets all alike, and what others do to
it shows in a sample's `others` and is thrown away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

LIMIT = 0.04
"""More of the CPUs than this taken by other processes spoils a sample: threads that wait for each other
spin, so a little on one core costs all of them several times as much."""
TRIES = 4
"""Rounds are repeated until there are enough, but at most this many for each that is wanted."""
PAUSE_S = 0.2
"""Before each sample, so that the threads of the one before have gone to sleep."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds that something took, and the share of the CPUs that other processes had meanwhile."""

    seconds: float
    others: float


Take = Callable[[int], Sample]
"""Takes a sample; the number is that of the try, so that prompts can differ."""


@dataclass(frozen=True, slots=True)
class Series:
    """Seconds of each engine, round by round, and how many rounds were thrown away."""

    seconds: Mapping[str, tuple[float, ...]]
    rejected: int

    def median(self, name: str) -> float:
        """Of one engine, in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, fast: str, slow: str) -> float:
        """How many times as fast `fast` is: the median over the rounds, whose samples are neighbours in time.
        A machine's bandwidth drifts by more than what is to be told apart."""
        pairs = zip(self.seconds[fast], self.seconds[slow], strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)


class Disturbed(Exception):
    """Other processes kept taking more of the machine than a measurement bears."""


def in_turns(
    takers: Mapping[str, Take],
    rounds: int,
    *,
    limit: float = LIMIT,
    pause: Callable[[], object] = lambda: time.sleep(PAUSE_S),
) -> Series:
    """`rounds` rounds in which no sample was spoiled; every other round begins with the other end.

    Raises `Disturbed` when `TRIES` times as many do not give that many.
    """
    kept: list[Mapping[str, Sample]] = []
    worst = []
    for number in range(rounds * TRIES):
        found = {}
        for name in order(takers, number):
            pause()
            found[name] = takers[name](number)
        if (most := max(sample.others for sample in found.values())) <= limit:
            kept.append(found)
        else:
            worst.append(most)
        if len(kept) == rounds:
            seconds = {name: tuple(one[name].seconds for one in kept) for name in takers}
            return Series(seconds, len(worst))
    raise Disturbed(
        f"other processes took up to {max(worst):.0%} of the processors: {len(kept)} of {rounds} rounds were "
        "undisturbed; measure when the machine is quiet"
    )


def order(names: Iterable[str], number: int) -> list[str]:
    listed = list(names)
    return listed[::-1] if number % 2 else listed
