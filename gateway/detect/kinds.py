"""The closed set of things that detectors find, and the groups under which a bundle may name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

NATIONAL_IDS: Final = (
    "be-nn", "ch-ahv", "de-idnr", "es-dni", "es-nie", "fr-nir", "gb-nhs", "gb-nino", "it-codice-fiscale",
    "nl-bsn", "pl-pesel", "se-personnummer", "us-ssn",
)  # fmt: skip
SECRETS: Final = ("api-token", "aws-key", "jwt", "password", "private-key")

KINDS: Final = frozenset({"card", "email", "iban", "phone", *NATIONAL_IDS, *SECRETS})

# A group stands for all of its kinds, those of a later version included.
GROUPS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"national-ids": frozenset(NATIONAL_IDS), "secrets": frozenset(SECRETS)}
)

PATTERN: Final = "pattern"  # how metrics count what a bundle's own patterns find, whatever their ids


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """Something of `kind` (or of a bundle's pattern with that id) at `text[start:end]`, in characters."""

    start: int
    end: int
    kind: str


def kinds_of(words: Iterable[str]) -> frozenset[str]:
    """The kinds that these words name; a word that is no group names itself."""
    return frozenset().union(*(GROUPS.get(word, frozenset({word})) for word in words))
