"""What a bundle says of detectors: which kinds bring which labels, its patterns, what is redacted where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.detect.budget import Budget
from gateway.detect.kinds import Found
from gateway.detect.patterns import Pattern
from gateway.detect.scanner import Scanner
from gateway.labels import Labels, Vocabulary
from gateway.places import Place
from gateway.policy.decide import place_meets
from gateway.policy.rules import PlaceCondition

INLINE_BYTES: Final = 16 * 1024
TEXT_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Redaction:
    """`kinds` are written as placeholders at places that meet `at` and do not meet `outside`."""

    kinds: frozenset[str]
    at: PlaceCondition
    outside: PlaceCondition

    def applies(self, place: Place) -> bool:
        return place_meets(self.at, place) and (self.outside.empty or not place_meets(self.outside, place))


@dataclass(frozen=True, slots=True, eq=False)
class DetectorRules:
    """`detectors.yaml`, compiled.

    `revision` is a hash over the file. `labels` maps a kind, or a pattern's id, to the labels that it brings.
    Requests with more than `inline_bytes` of unread text are read off the event loop; a text of more than
    `text_bytes_max` is not read, but counts as holding everything.
    """

    revision: str
    labels: Mapping[str, frozenset[str]]
    patterns: tuple[Pattern, ...]
    redactions: tuple[Redaction, ...]
    scanner: Scanner
    inline_bytes: int = INLINE_BYTES
    text_bytes_max: int = TEXT_BYTES_MAX

    def everything(self, tenant: str) -> frozenset[str]:
        """Every kind and pattern that could be found in a text of this tenant."""
        return self.scanner.wanted | {one.id for one in self.patterns if one.concerns(tenant)}

    def find(self, text: str, tenant: str, region: str) -> list[Found]:
        """All that a text holds, in order. Raises TooDense."""
        found = self.scanner.scan(text, region, Budget())
        for pattern in self.patterns:
            if pattern.concerns(tenant):
                found += pattern.find(text)
        return sorted(set(found))

    def labels_of(self, kinds: Iterable[str], vocabulary: Vocabulary) -> Labels | None:
        """What these kinds bring; None when they bring nothing."""
        names = frozenset().union(*(self.labels.get(kind, frozenset()) for kind in kinds))
        return vocabulary.from_names(names) if names else None

    def redacted_at(self, place: Place) -> frozenset[str]:
        """The kinds that are not shown to this place."""
        return frozenset().union(*(one.kinds for one in self.redactions if one.applies(place)))
