"""One pass over a text: a linear-time pattern finds where something may be, checks say whether it is.

Every alternative of the pattern looks at a bounded piece of text, or only at what it takes: so the whole is
linear in the text, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import re2  # type: ignore[import-untyped]

from gateway.detect import addresses, codes, numbers, secrets
from gateway.detect.budget import Budget
from gateway.detect.kinds import Found
from gateway.detect.plain import plain

NUMBER_KINDS: Final = frozenset({form.kind for forms in numbers.FORMS.values() for form in forms}) | {
    "es-dni",
    "phone",
}

# Which anchors look for which kinds, in the order in which they are tried where two could begin.
ANCHORS: Final = (
    (addresses.AT, frozenset({"email", "password"})),
    (secrets.PEM, frozenset({"private-key"})),
    (secrets.AWS, frozenset({"aws-key"})),
    (secrets.JWT, frozenset({"jwt"})),
    (secrets.TOKEN, frozenset({"api-token"})),
    (codes.CODICE_FISCALE, frozenset({"it-codice-fiscale"})),
    (codes.NINO, frozenset({"gb-nino"})),
    (codes.NIE, frozenset({"es-nie"})),
    (codes.IBAN, frozenset({"iban"})),
    (codes.CORSICAN_NIR, frozenset({"fr-nir"})),
    (secrets.ASSIGNED, frozenset({"password"})),
    (numbers.RUN, NUMBER_KINDS),
)
PEM_FIRST, AT_FIRST = ord("-"), ord("@")
NUMBER_FIRST: Final = frozenset(b"+(0123456789")


class Scanner:
    """Finds things of the kinds in `wanted`, which are of `KINDS`. Keeps nothing of what it reads."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self.wanted = wanted
        anchors = "|".join(f"(?:{anchor})" for anchor, kinds in ANCHORS if kinds & wanted)
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.never_capture = True
        options.log_errors = False
        self._anchors = re2.compile(anchors.encode("latin-1"), options) if anchors else None

    def scan(self, text: str, region: str, budget: Budget) -> list[Found]:
        """Everything that is found, in order; spans of different kinds may overlap.

        `region` is the country from which a national phone number is dialled. Raises TooDense.
        """
        if self._anchors is None:
            return []
        read = plain(text)
        if read.offsets is None:
            return list(self._find(read.data, region, budget))
        return [
            Found(*read.span(found.start, found.end), found.kind)
            for found in self._find(read.data, region, budget)
        ]

    def _find(self, data: bytes, region: str, budget: Budget) -> Iterator[Found]:
        assert self._anchors is not None
        # What is in a key's block or behind `password=` may be more than that: both are read on inside.
        at, unclosed, block_end = 0, list[int](), 0
        while (match := self._anchors.search(data, at)) is not None:
            start, end = match.span()
            first = data[start]
            if first in NUMBER_FIRST:
                corsican = codes.find_corsican_nir(data, start, budget) if "fr-nir" in self.wanted else None
                if corsican is not None:
                    yield corsican
                    at = corsican.end
                    continue
                yield from numbers.find_numbers(data, start, end, region, self.wanted, budget)
                at = end
            elif first == AT_FIRST:
                found = addresses.find_at(data, start, self.wanted)
                if found is not None:
                    yield found
                at = end if found is None else max(end, found.end)
            elif first == PEM_FIRST:
                if start >= block_end:  # a block is looked for the end of once
                    found = secrets.find_pem(data, start, end, unclosed)
                    yield found
                    block_end = found.end
                at = end
            else:
                found, read_to = self._find_word(data, start, budget)
                if found is not None:
                    yield found
                at = max(read_to, start + 1)

    def _find_word(self, data: bytes, start: int, budget: Budget) -> tuple[Found | None, int]:
        """What begins with the letter at `start`, and where to go on."""
        wanted, read_to = self.wanted, start + 2
        if "jwt" in wanted and data.startswith(b"eyJ", start):
            found, read_to = secrets.find_jwt(data, start)
            if found is not None:
                return found, found.end
        for kind, find in WORD_FINDERS:
            if kind in wanted and (found := find(data, start, budget)) is not None:
                # What is called a password may be something else as well, such as an IBAN.
                return found, found.start if kind == "password" else found.end
        return None, read_to


WORD_FINDERS: Final = (
    ("aws-key", lambda data, start, budget: secrets.find_aws_key(data, start)),
    ("api-token", lambda data, start, budget: secrets.find_token(data, start)),
    ("iban", codes.find_iban),
    ("it-codice-fiscale", codes.find_codice_fiscale),
    ("gb-nino", codes.find_nino),
    ("es-nie", codes.find_nie),
    ("password", lambda data, start, budget: secrets.find_assigned(data, start)),
)
