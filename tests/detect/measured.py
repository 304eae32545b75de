"""How well detectors do on a corpus, by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.detect.budget import Budget
from gateway.detect.kinds import KINDS, Found
from gateway.detect.scanner import Scanner
from tests.detect.corpus import Document


@dataclass(frozen=True, slots=True)
class Score:
    """`things` of a kind were there, `hits` of them found; `false` spans were found where there is none."""

    things: int
    hits: int
    false: int

    @property
    def recall(self) -> float:
        return self.hits / self.things

    @property
    def precision(self) -> float:
        return self.hits / (self.hits + self.false) if self.hits else 0.0


def score(
    documents: Iterable[Document], region: str = "DE"
) -> tuple[dict[str, Score], list[tuple[str, Document, Found | None]]]:
    """The score of each kind, and everything that was missed (None) or found in vain."""
    scanner = Scanner(KINDS)
    things, hits, false = Counter[str](), Counter[str](), Counter[str]()
    faults: list[tuple[str, Document, Found | None]] = []
    for document in documents:
        found = scanner.scan(document.text, region, Budget())
        for thing in document.things:
            things[thing.kind] += 1
            if any(
                one.kind == thing.kind and one.start < thing.end and thing.start < one.end for one in found
            ):
                hits[thing.kind] += 1
            else:
                faults.append((thing.kind, document, None))
        for one in found:
            if not any(
                one.kind == thing.kind and one.start < thing.end and thing.start < one.end
                for thing in document.things
            ):
                false[one.kind] += 1
                faults.append((one.kind, document, one))
    return {kind: Score(things[kind], hits[kind], false[kind]) for kind in sorted(KINDS)}, faults
