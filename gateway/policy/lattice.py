"""Every point of the lattice of labels as one bit of a number, so that sets of them are joined in one step.

With r words on the scale, the bit of a point is `categories * r + rank`: `categories` has one bit for each
category that the point has, the highest for the first in the alphabet. Of points with as many categories and
the same sensitivity, the one whose names come first in the alphabet is therefore the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gateway.labels import Labels, Vocabulary
from gateway.policy.rules import FactCondition


@dataclass(frozen=True, slots=True)
class Lattice:
    """The points of a vocabulary. A set of points has a one for each bit of a member.

    `everything` is the set of all. `with_category` holds, for each category, the points that have it;
    `from_rank` those of this rank or a higher one. `levels` are the sets of points with the same number of
    categories and the same sensitivity: the smallest first.
    """

    vocabulary: Vocabulary
    names: tuple[str, ...]
    everything: int
    with_category: Mapping[str, int]
    from_rank: tuple[int, ...]
    levels: tuple[int, ...]

    def meeting(self, condition: FactCondition, at_most: Labels | None = None) -> int:
        """The points that meet what a condition asks of labels, and lie at or below `at_most`."""
        met = self.everything
        if condition.sensitivity_at_least is not None:
            met &= self.from_rank[self.vocabulary.rank(condition.sensitivity_at_least)]
        if condition.labels_any is not None:
            met &= join(self.with_category[name] for name in condition.labels_any)
        for name in condition.labels_all or ():
            met &= self.with_category[name]
        if at_most is not None:
            rank = self.vocabulary.rank(at_most.sensitivity)
            met &= ~join(self.with_category[name] for name in self.vocabulary.categories - at_most.categories)
            met &= ~join(self.from_rank[rank + 1 : rank + 2])
        return met

    def smallest(self, points: int, levels: int) -> tuple[int, int] | None:
        """Level and bit of the smallest point among those of the first `levels` levels; None without one.

        The fewest categories, then the lowest sensitivity, then the names that come first in the alphabet.
        """
        for number, level in enumerate(self.levels[:levels]):
            if found := points & level:
                return number, found.bit_length() - 1
        return None

    def labels(self, bit: int) -> Labels:
        """The labels of the point with this bit."""
        categories, rank = divmod(bit, len(self.vocabulary.scale))
        last = len(self.names) - 1
        return Labels(
            self.vocabulary.scale[rank],
            frozenset(name for number, name in enumerate(self.names) if categories >> (last - number) & 1),
        )

    def least(self, points: int) -> int:
        """The points with no other one of the set right below them: all that there is to say of a set in
        which every point above a member is a member too."""
        ranks = len(self.vocabulary.scale)
        above = (points & ~self.from_rank[ranks - 1]) << 1
        for number, name in enumerate(self.names):
            above |= (points & ~self.with_category[name]) << (ranks << (len(self.names) - 1 - number))
        return points & ~above

    def greatest(self, points: int) -> int:
        """The points with no other one of the set right above them: the counterpart of `least`."""
        ranks = len(self.vocabulary.scale)
        below = (points & join(self.from_rank[1:2])) >> 1
        for number, name in enumerate(self.names):
            below |= (points & self.with_category[name]) >> (ranks << (len(self.names) - 1 - number))
        return points & ~below

    def convex(self, points: int) -> Iterator[int]:
        """The set in parts, each of which has every point that lies between two of its own: then the least
        and the greatest points of a part say all of it. One part wherever that is possible.

        `points` are those that a bundle permits and an earlier one does not, and so convex among those with
        the same sensitivity. Across the scale they need not be: the earlier bundle may lack one of its words.
        """
        part = 0
        for rank, here in enumerate(self.from_rank):
            exactly = points & here & ~join(self.from_rank[rank + 1 : rank + 2])
            if part and exactly and not self.is_convex(part | exactly):
                yield part
                part = 0
            part |= exactly
        if part:
            yield part

    def is_convex(self, points: int) -> bool:
        """Whether every point between two of these is one of them."""
        above = below = points
        for number, name in enumerate(self.names):
            step = len(self.vocabulary.scale) << (len(self.names) - 1 - number)
            above |= (above & ~self.with_category[name]) << step
            below |= (below & self.with_category[name]) >> step
        for _ in self.vocabulary.scale[1:]:
            above |= (above & ~self.from_rank[-1]) << 1
            below |= (below & join(self.from_rank[1:2])) >> 1
        return above & below == points

    def in_order(self, points: int) -> Iterator[Labels]:
        """The labels of these points, the smallest first."""
        while (found := self.smallest(points, len(self.levels))) is not None:
            yield self.labels(found[1])
            points ^= 1 << found[1]


def lattice_of(vocabulary: Vocabulary) -> Lattice:
    """The lattice of a vocabulary."""
    names, ranks = tuple(sorted(vocabulary.categories)), len(vocabulary.scale)
    count = ranks << len(names)

    def points(holds: Callable[..., bool]) -> int:
        # The text of a binary number starts with its highest bit.
        return int("".join("01"[holds(*divmod(bit, ranks))] for bit in reversed(range(count))), 2)

    sizes = [
        points(lambda categories, rank, size=size: categories.bit_count() == size)
        for size in range(len(names) + 1)
    ]
    from_rank = [points(lambda categories, rank, least=least: rank >= least) for least in range(ranks)]
    exactly = [here & ~above for here, above in zip(from_rank, [*from_rank[1:], 0], strict=True)]
    return Lattice(
        vocabulary=vocabulary,
        names=names,
        everything=(1 << count) - 1,
        with_category=MappingProxyType(
            {
                name: points(lambda categories, rank, bit=bit: bool(categories >> bit & 1))
                for bit, name in enumerate(reversed(names))
            }
        ),
        from_rank=tuple(from_rank),
        levels=tuple(size & rank for size in sizes for rank in exactly),
    )


def join(sets: Iterable[int]) -> int:
    """The points of every one of these sets."""
    joined = 0
    for points in sets:
        joined |= points
    return joined


def ones(number: int) -> Iterator[int]:
    """The bits that are set, from the lowest."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def points_permitted(applying: int, forbids: int, by_labels: Sequence[int]) -> int:
    """The points that some of the `applying` rules permits and none forbids. `forbids` is the set of rules
    that forbid, `by_labels` holds the points that each rule is about."""
    permitted = forbidden = 0
    for rule in ones(applying):
        if forbids >> rule & 1:
            forbidden |= by_labels[rule]
        else:
            permitted |= by_labels[rule]
    return permitted & ~forbidden
