"""What a request carries: one word of a sensitivity scale and a set of categories.

Labels form a lattice. The only operation on them is `union`: categories join, the sensitivity is the
higher one. Nothing here, and nothing that uses it, can take a label away.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from gateway import errors

# A header longer than this cannot be a list of labels of a closed vocabulary.
HEADER_BYTES_MAX = 1024


class UnknownLabel(errors.UnknownLabel):
    """A label that the bundle's vocabulary does not have: 400 `unknown_label`.

    The text never repeats the label, which may be anything that a caller wrote; `label` holds it.
    """

    def __init__(self, label: str, known: tuple[str, ...]) -> None:
        self.label = label
        self.known = known
        near = difflib.get_close_matches(label[:64], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"use any of `{', '.join(known)}`"
        super().__init__(f"a label is not in the vocabulary of `x-douane-labels`; {hint}")


@dataclass(frozen=True, slots=True)
class Labels:
    """One point of the lattice; hashable, compared by value."""

    sensitivity: str
    categories: frozenset[str]

    def names(self) -> tuple[str, ...]:
        """The labels as audit, receipts and headers show them: the sensitivity, then categories sorted."""
        return (self.sensitivity, *sorted(self.categories))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The closed set of words of a bundle. `scale` runs from low to high."""

    scale: tuple[str, ...]
    categories: frozenset[str]
    purposes: frozenset[str]

    @property
    def lowest(self) -> Labels:
        """The bottom of the lattice: the lowest sensitivity and no category."""
        return Labels(self.scale[0], frozenset())

    @property
    def highest(self) -> Labels:
        """The top of the lattice: the top sensitivity and every category."""
        return Labels(self.scale[-1], self.categories)

    def words(self) -> tuple[str, ...]:
        """Every label that a header may hold: the scale from low to high, then the categories sorted."""
        return (*self.scale, *sorted(self.categories))

    def parse(self, header: str) -> Labels | None:
        """The labels of a header such as `confidential, personal`; None when it names none.

        A category alone stands at the lowest sensitivity (the tenant's floor still joins it).
        Several words of the scale: the highest counts. Raises UnknownLabel.
        """
        if len(header) > HEADER_BYTES_MAX:
            raise UnknownLabel(header, self.words())
        names = [word.strip().lower() for word in header.split(",")]
        given = [name for name in names if name]
        return self.from_names(given) if given else None

    def from_names(self, names: Iterable[str]) -> Labels:
        """The labels with these names; the lowest of the lattice for none. Raises UnknownLabel."""
        rank = 0
        categories: set[str] = set()
        for name in names:
            if name in self.scale:
                rank = max(rank, self.scale.index(name))
            elif name in self.categories:
                categories.add(name)
            else:
                raise UnknownLabel(name, self.words())
        return Labels(self.scale[rank], frozenset(categories))

    def union(self, *labels: Labels) -> Labels:
        """Every category of every one, at the highest sensitivity among them. Raises UnknownLabel."""
        rank = 0
        categories: frozenset[str] = frozenset()
        for one in labels:
            rank = max(rank, self.rank(one.sensitivity))
            categories |= one.categories
        return Labels(self.scale[rank], categories)

    def rank(self, sensitivity: str) -> int:
        """The place of a word on the scale, 0 the lowest. Raises UnknownLabel."""
        try:
            return self.scale.index(sensitivity)
        except ValueError:
            raise UnknownLabel(sensitivity, self.scale) from None

    def within(self, labels: Labels, ceiling: Labels) -> bool:
        """Whether `labels` are at or below `ceiling` in the lattice. Raises UnknownLabel."""
        return (
            self.rank(labels.sensitivity) <= self.rank(ceiling.sensitivity)
            and labels.categories <= ceiling.categories
        )
