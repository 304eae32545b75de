"""`bundle.yaml`: the version, the serial and the closed vocabulary."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.labels import Vocabulary
from gateway.policy.problems import Problem
from gateway.policy.source.check import Entry, Word
from gateway.policy.source.document import Document

# The table lists every point of the lattice of labels: 4 x 2^12 of them take a few milliseconds.
CATEGORIES_MAX = 12
SERIAL_MAX = 2**53 - 1  # what JSON's readers, and the audit, hold exactly


class VocabularyEntry(Entry):
    """The words that rules, tenants and callers may use."""

    sensitivity: Annotated[list[Word], Field(min_length=1, max_length=8, description="from low to high")]
    categories: Annotated[list[Word], Field(max_length=CATEGORIES_MAX)]
    purposes: Annotated[list[Word], Field(min_length=1, max_length=64)]


class TaintEntry(Entry):
    """Which messages bring the labels along that they have once carried. Left out, every one does."""

    messages_of_at_least_bytes: Annotated[
        int,
        Field(
            ge=1,
            le=4096,
            description="shorter messages carry no labels from one conversation to another: a relaxation",
        ),
    ]


class BundleFile(Entry):
    """`bundle.yaml`"""

    api_version: Annotated[Literal["douane/v1"], Field(alias="apiVersion")]
    serial: Annotated[int, Field(ge=1, le=SERIAL_MAX, description="grows with every release of the bundle")]
    vocabulary: VocabularyEntry
    taint: TaintEntry | None = None

    @property
    def marked_from_bytes(self) -> int:
        return self.taint.messages_of_at_least_bytes if self.taint is not None else 0


def build_vocabulary(document: Document, file: BundleFile) -> tuple[Vocabulary, list[Problem]]:
    """The vocabulary, in which no word means two things."""
    problems = []
    seen: dict[str, str] = {}
    entry = file.vocabulary
    for kind, words in (("sensitivity", entry.sensitivity), ("categories", entry.categories)):
        for index, word in enumerate(words):
            if word in seen:
                problems.append(
                    document.problem(
                        ("vocabulary", kind, index),
                        f"`{word}` is already a word of `{seen[word]}`",
                        "a label means one thing; rename or remove one",
                    )
                )
            seen[word] = kind
    return (
        Vocabulary(tuple(entry.sensitivity), frozenset(entry.categories), frozenset(entry.purposes)),
        problems,
    )
