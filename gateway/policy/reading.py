"""The rules of a bundle read in the lattice of labels of another, so that two bundles can be compared.

Words mean what their names say: a word that both vocabularies have is the same word in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.labels import Labels, Vocabulary
from gateway.places import Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.compile import ACTIONS
from gateway.policy.lattice import Lattice, join, points_permitted
from gateway.policy.rules import FactCondition


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a bundle says of the points of `lattice`. `known` holds those whose words the bundle all has;
    `naming`, for each action and place, the rules that name it."""

    bundle: Bundle
    lattice: Lattice
    known: int
    by_labels: tuple[int, ...]
    naming: dict[tuple[Action, str], int]
    _allowed: dict[int, int] = field(default_factory=dict, repr=False)  # worked out, by the rules that apply

    def allowed(self, action: Action, place: str, rules: int) -> int:
        """The points with which the action is permitted there, for facts that `rules` are about but for
        labels. A point that the bundle does not know is permitted nothing."""
        applying = rules & self.naming[action, place]
        known = self._allowed.get(applying)
        if known is not None:
            return known
        permitted = points_permitted(applying, self.bundle.table.forbids, self.by_labels)
        self._allowed[applying] = found = permitted & self.known
        return found


def reading_of(bundle: Bundle, lattice: Lattice) -> Reading:
    table = bundle.table
    return Reading(
        bundle=bundle,
        lattice=lattice,
        known=known_points(bundle.vocabulary, lattice),
        by_labels=tuple(holding(rule.facts, bundle.vocabulary, lattice) for rule in bundle.rules),
        naming={
            (action, place): sum(
                1 << number
                for number, mask in enumerate(table.masks)
                if mask >> (index * len(table.place_ids) + at) & 1
            )
            for index, action in enumerate(ACTIONS)
            for at, place in enumerate(table.place_ids)
        },
    )


def exactly(word: str, lattice: Lattice) -> int:
    """The points at this word of the scale; none for a word that the lattice lacks."""
    if word not in lattice.vocabulary.scale:
        return 0
    rank = lattice.vocabulary.rank(word)
    return lattice.from_rank[rank] & ~join(lattice.from_rank[rank + 1 : rank + 2])


def known_points(vocabulary: Vocabulary, lattice: Lattice) -> int:
    """The points of the lattice that are also points of this vocabulary."""
    foreign = lattice.vocabulary.categories - vocabulary.categories
    points = join(exactly(word, lattice) for word in vocabulary.scale)
    return points & ~join(lattice.with_category[name] for name in foreign)


def holding(condition: FactCondition, vocabulary: Vocabulary, lattice: Lattice) -> int:
    """The points that meet what a condition of a bundle with this vocabulary asks of labels, of those that
    the vocabulary knows."""
    met = lattice.everything
    if condition.sensitivity_at_least is not None:
        from_here = vocabulary.scale[vocabulary.rank(condition.sensitivity_at_least) :]
        met &= join(exactly(word, lattice) for word in from_here)
    if condition.labels_any is not None:
        met &= join(lattice.with_category.get(name, 0) for name in condition.labels_any)
    for name in condition.labels_all or ():
        met &= lattice.with_category.get(name, 0)
    return met


def knows(vocabulary: Vocabulary, labels: Labels) -> bool:
    """Whether every word of these labels is one of the vocabulary."""
    return labels.sensitivity in vocabulary.scale and labels.categories <= vocabulary.categories


def same_place(one: Place, other: Place) -> bool:
    """Whether two places of the same name are the same place: of one kind, in one country, run by one
    operator, in one region. What is said of a place that has moved was said of another place."""
    return (one.kind, one.country, one.operator, one.region) == (
        other.kind,
        other.country,
        other.operator,
        other.region,
    )


def order_kept(one: Vocabulary, other: Vocabulary) -> bool:
    """Whether the words that both scales have are in the same order in both."""
    return [word for word in one.scale if word in other.scale] == [
        word for word in other.scale if word in one.scale
    ]
