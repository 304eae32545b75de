"""Identifiers that hold letters: IBAN, and the national numbers of Italy, Britain, Spain and Corsica."""

from __future__ import annotations

import functools
import re
from typing import Final

from stdnum import iban, numdb
from stdnum.es import nie
from stdnum.fr import nir
from stdnum.it import codicefiscale

from gateway.detect.around import WORD_CHARACTERS, free_left, free_right
from gateway.detect.budget import Budget
from gateway.detect.kinds import Found

IBAN: Final = r"\b[A-Za-z]{2}[0-9]{2}"
CODICE_FISCALE: Final = (
    r"(?i:\b[A-Z]{3} ?[A-Z]{3} ?[0-9L-NP-V]{2}[A-EHLMPR-T][0-9L-NP-V]{2} ?[A-Z][0-9L-NP-V]{3} ?[A-Z]\b)"
)
NINO: Final = r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[A-D]\b"
NIE: Final = r"\b[XYZxyz][ -]?[0-9]{7}[ -]?[A-Za-z]\b"
CORSICAN_NIR: Final = r"\b[12] ?[0-9]{2} ?[0-9]{2} ?2[ABab] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}\b"

NINO_AT: Final = re.compile(NINO.encode())
NIE_AT: Final = re.compile(NIE.encode())
CORSICAN_NIR_AT: Final = re.compile(CORSICAN_NIR.encode())
CODICE_FISCALE_AT: Final = re.compile(CODICE_FISCALE.encode())
NINO_NEVER: Final = frozenset((b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ"))
SEPARATORS: Final = re.compile(rb"[ .\-]")


def compact(written: bytes) -> str:
    return SEPARATORS.sub(b"", written).decode("ascii").upper()


def find_iban(data: bytes, start: int, budget: Budget) -> Found | None:
    """An IBAN that begins at `start`: as long as its country's are, its check digits right."""
    shape = iban_shape(data[start : start + 2].decode("ascii").upper())
    if shape is None or not free_left(data, start):
        return None
    written = shape.match(data, start)
    if written is None or (written.end() < len(data) and data[written.end()] in WORD_CHARACTERS):
        return None
    return Found(start, written.end(), "iban") if budget.check(is_iban, compact(written.group())) else None


def is_iban(number: str) -> bool:
    # The check digits of countries inside it are left aside: banks issue numbers that break them.
    try:
        iban.validate(number, check_country=False)
    except ValueError:
        return False
    return True


@functools.cache
def iban_shape(country: str) -> re.Pattern[bytes] | None:
    """As many letters and digits as a country's IBANs have, with separators; None where it has none."""
    told = numdb.get("iban").info(country)
    bban = told[0][1].get("bban") if told else None
    if bban is None:
        return None
    length = 4 + sum(int(count) for count in re.findall(r"([0-9]+)!", bban))
    return re.compile(rb"[A-Za-z]{2}[0-9]{2}(?:[ .\-]{0,2}[A-Za-z0-9]){%d}" % (length - 4))


def find_codice_fiscale(data: bytes, start: int, budget: Budget) -> Found | None:
    written = CODICE_FISCALE_AT.match(data, start)
    if written is None or not budget.check(codicefiscale.is_valid, compact(written.group())):
        return None
    return Found(start, written.end(), "it-codice-fiscale")


def find_nino(data: bytes, start: int, budget: Budget) -> Found | None:
    """A National Insurance number. It has no check digit: its letters are all there is to go by."""
    written = NINO_AT.match(data, start)
    if written is None or data[start : start + 2] in NINO_NEVER or not free_left(data, start):
        return None
    return Found(start, written.end(), "gb-nino") if free_right(data, written.end()) else None


def find_nie(data: bytes, start: int, budget: Budget) -> Found | None:
    written = NIE_AT.match(data, start)
    if written is None or not budget.check(nie.is_valid, compact(written.group())):
        return None
    return Found(start, written.end(), "es-nie")


def find_corsican_nir(data: bytes, start: int, budget: Budget) -> Found | None:
    written = CORSICAN_NIR_AT.match(data, start)
    if written is None or not budget.check(nir.is_valid, compact(written.group())):
        return None
    return Found(start, written.end(), "fr-nir")
