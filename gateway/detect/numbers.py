"""Runs of digits: payment cards, national numbers, and phone numbers.

A run is cut into groups of digits, and every few neighbouring groups are held against the ways in which
numbers of each kind are written. What fits is checked by its check digits. A group that is joined to another
by `.`, `-` or `/` (a version, an address, a date, an amount) counts only as part of a whole that fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from stdnum import luhn
from stdnum.be import nn
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.es import dni
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import ssn

from gateway.detect.around import free_left, free_right, glued_word_says, says, says_before
from gateway.detect.budget import Budget
from gateway.detect.kinds import Found
from gateway.detect.phones import is_phone

RUN: Final = r"[+(]{0,2}[0-9](?:[ .\-/()]{0,3}[0-9]){6,}"
GROUP: Final = re.compile(rb"[0-9]+")
GROUP_DIGITS_MAX: Final = 19
GROUPS_MAX: Final = 8
DIGITS_MAX: Final = 19
PHONE_DIGITS: Final = range(7, 16)
PHONE_TRIES_MAX: Final = 4
DNI_LETTER: Final = re.compile(rb"[ -]?([A-Za-z])(?![A-Za-z0-9_\xc0-\xff])")
MINUTES: Final = re.compile(r"(?:[01][0-9]|2[0-3])[0-5][0-9]$")

SPACES: Final = frozenset((b" ",))
CARD_SEPARATORS: Final = frozenset((b" ", b"-", b".", b"  ", b" - "))

# Who issues a card: its first digits, as integers of that many digits, for each length.
CARD_PREFIXES: Final[dict[int, tuple[tuple[int, int], ...]]] = {
    14: ((300, 305), (36, 36), (38, 39)),
    15: ((34, 34), (37, 37)),
    16: ((4, 4), (51, 55), (2221, 2720), (6011, 6011), (644, 649), (65, 65), (3528, 3589), (62, 62), (50, 50),
         (56, 58), (60, 60), (67, 67)),
    18: ((62, 62), (50, 50), (56, 58), (63, 63), (67, 67)),
    19: ((4, 4), (62, 62), (6011, 6011), (644, 649), (65, 65), (3528, 3589), (50, 50), (56, 58), (67, 67)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write numbers of one kind: `named` asks for a word beside it that says what it is.

    `separators` are what may stand between its groups; `uniform`: the same between all of them.
    """

    kind: str
    valid: Callable[[str], bool]
    separators: frozenset[bytes] = SPACES
    uniform: bool = True
    named: bool = False


def is_card(digits: str) -> bool:
    prefixes = CARD_PREFIXES.get(len(digits), ())
    return any(low <= int(digits[: len(str(low))]) <= high for low, high in prefixes) and luhn.is_valid(
        digits
    )


def is_nhs_today(digits: str) -> bool:
    """Of the ranges that are given out: England and Wales, Northern Ireland."""
    return digits[0] in "3467" and nhs.is_valid(digits)


def is_ahv(digits: str) -> bool:
    return digits.startswith("756") and bool(ahv.is_valid(digits))


def is_personnummer(digits: str) -> bool:
    return digits[:2] in ("19", "20") and bool(personnummer.is_valid(f"{digits[:8]}-{digits[8:]}"))


def is_short_personnummer(digits: str) -> bool:
    return bool(personnummer.is_valid(f"{digits[:6]}-{digits[6:]}"))


def is_personnummer_no_time(digits: str) -> bool:
    """What may as well be a moment, `202411302212`, counts only beside a word."""
    return MINUTES.search(digits) is None and is_personnummer(digits)


ANY: Final = frozenset((b" ", b".", b"-", b"/", b" / ", b" - "))
DASH: Final = frozenset((b"-",))
DOT_SPACE: Final = frozenset((b".", b" "))
DASH_SPACE: Final = frozenset((b"-", b" "))
CARD: Final = Form("card", is_card, CARD_SEPARATORS)

FORMS: Final[dict[tuple[int, ...], tuple[Form, ...]]] = {
    (14,): (CARD,), (16,): (CARD,), (18,): (CARD,), (19,): (CARD,),
    (4, 4, 4, 4): (CARD,), (4, 6, 5): (CARD,), (4, 6, 4): (CARD,), (4, 4, 4, 4, 3): (CARD,),
    (15,): (CARD, Form("fr-nir", nir.is_valid)),
    (13, 2): (Form("fr-nir", nir.is_valid, ANY),),
    (1, 2, 2, 2, 3, 3, 2): (Form("fr-nir", nir.is_valid, ANY, uniform=False),),
    (9,): (Form("nl-bsn", bsn.is_valid, named=True), Form("us-ssn", ssn.is_valid, named=True)),
    (3, 3, 3): (Form("nl-bsn", bsn.is_valid, ANY, named=True),),
    (4, 2, 3): (Form("nl-bsn", bsn.is_valid, ANY, named=True),),
    (3, 2, 4): (
        Form("us-ssn", ssn.is_valid, DASH),
        Form("us-ssn", ssn.is_valid, named=True),
    ),
    (11,): (
        Form("de-idnr", idnr.is_valid),
        Form("pl-pesel", pesel.is_valid),
        Form("be-nn", nn.is_valid),
    ),
    (2, 3, 3, 3): (Form("de-idnr", idnr.is_valid),),
    (2, 2, 2, 3, 2): (Form("be-nn", nn.is_valid, ANY, uniform=False),),
    (6, 3, 2): (Form("be-nn", nn.is_valid, ANY, uniform=False),),
    (10,): (
        Form("gb-nhs", nhs.is_valid, named=True),
        Form("se-personnummer", is_short_personnummer, named=True),
    ),
    (3, 3, 4): (
        Form("gb-nhs", is_nhs_today),
        Form("gb-nhs", nhs.is_valid, DASH_SPACE, named=True),
    ),
    (6, 4): (Form("se-personnummer", is_short_personnummer, DASH),),
    (8, 4): (Form("se-personnummer", is_personnummer, DASH),),
    (12,): (
        Form("se-personnummer", is_personnummer_no_time),
        Form("se-personnummer", is_personnummer, named=True),
    ),
    (13,): (Form("ch-ahv", is_ahv),),
    (3, 4, 4, 2): (Form("ch-ahv", is_ahv, ANY),),
}  # fmt: skip

DNI_FORMS: Final = {(8,): SPACES, (2, 3, 3): frozenset((b".",))}


def find_numbers(
    data: bytes, start: int, end: int, region: str, wanted: frozenset[str], budget: Budget
) -> Iterator[Found]:
    """What the run `data[start:end]` holds; windows of it are looked at in order, longest first."""
    groups = [match.span() for match in GROUP.finditer(data, start, end)]
    plus = groups[0][0] > start and data.find(b"+", start, groups[0][0]) >= 0
    if "phone" in wanted:
        yield from find_phone(data, start, groups, plus, region, budget)
    first = 0
    while first < len(groups):
        if (plus and first == 0) or not begins(data, groups, first):
            first += 1
            continue
        taken = 0
        for found, last in windows(data, groups, first, wanted, budget):
            taken = max(taken, last + 1 - first)
            yield found
        first += taken or 1


def begins(data: bytes, groups: list[tuple[int, int]], index: int) -> bool:
    """Whether a number may begin with this group: a space stands before it, or the run does."""
    return index == 0 or bool({*data[groups[index - 1][1] : groups[index][0]]} & {*b" ()"})


def ends(data: bytes, groups: list[tuple[int, int]], index: int) -> bool:
    """Whether a number may end with this group."""
    return index + 1 == len(groups) or bool({*data[groups[index][1] : groups[index + 1][0]]} & {*b" ()"})


def windows(
    data: bytes, groups: list[tuple[int, int]], first: int, wanted: frozenset[str], budget: Budget
) -> Iterator[tuple[Found, int]]:
    """What begins with group `first`, each with the index of its last group."""
    lengths: tuple[int, ...] = ()
    digits = ""
    separators: list[bytes] = []
    start = groups[first][0]
    for last in range(first, min(first + GROUPS_MAX, len(groups))):
        begin, end = groups[last]
        if end - begin > GROUP_DIGITS_MAX:
            return
        if last > first:
            separators.append(data[groups[last - 1][1] : begin])
        lengths += (end - begin,)
        digits += data[begin:end].decode("ascii")
        if len(digits) > DIGITS_MAX:
            return
        if "es-dni" in wanted and lengths in DNI_FORMS and set(separators) <= DNI_FORMS[lengths]:
            found = find_dni(data, start, end, digits, budget)
            if found is not None:
                yield found, last
        forms = FORMS.get(lengths)
        if forms is None or not ends(data, groups, last):
            continue
        kinds: set[str] = set()
        for form in forms:
            if (
                form.kind in wanted
                and form.kind not in kinds
                and separated(form, separators)
                and placed(form, data, start, end, len(digits))
                and budget.check(form.valid, digits)
            ):
                kinds.add(form.kind)
                yield Found(start, end, form.kind), last


def separated(form: Form, separators: list[bytes]) -> bool:
    """Whether the groups are separated as this form has it."""
    different = set(separators)
    return different <= form.separators and (not form.uniform or len(different) <= 1)


def placed(form: Form, data: bytes, start: int, end: int, digits: int) -> bool:
    """Whether it stands free, or is glued to a word that says what it is; and beside one, where it must."""
    if not free_right(data, end, digits):
        return False
    if not free_left(data, start):
        return glued_word_says(form.kind, data, start)
    if form.named:
        return says(form.kind, data, start, end)
    return form.kind != "gb-nhs" or not says_before("phone", data, start) or says("gb-nhs", data, start, end)


def find_dni(data: bytes, start: int, end: int, digits: str, budget: Budget) -> Found | None:
    """A Spanish DNI: eight digits and the letter that follows from them."""
    letter = DNI_LETTER.match(data, end)
    if letter is None or not (free_left(data, start) or glued_word_says("es-dni", data, start)):
        return None
    written = letter.group(1).decode("ascii")
    if not written.isupper() and not says("es-dni", data, start, end):
        return None  # a lower-case letter is a unit more often than not
    if not budget.check(dni.is_valid, digits + written.upper()):
        return None
    return Found(start, letter.end(), "es-dni")


def find_phone(
    data: bytes, start: int, groups: list[tuple[int, int]], plus: bool, region: str, budget: Budget
) -> Iterator[Found]:
    """A phone number at the beginning of a run: international, or beside a word that announces one."""
    begin = groups[0][0]
    if plus:
        start = data.rindex(b"+", start, begin)
    international = plus or data[begin : begin + 2] == b"00"
    if not free_left(data, start) or not (international or says_before("phone", data, start)):
        return
    count = 0
    lasts = []
    for last, (group_start, group_end) in enumerate(groups):
        count += group_end - group_start
        if count > PHONE_DIGITS.stop + 1:
            break
        long_enough = count in PHONE_DIGITS or (not plus and count - 2 in PHONE_DIGITS)
        if long_enough and ends(data, groups, last):
            lasts.append(last)
    for last in reversed(lasts[-PHONE_TRIES_MAX:]):
        end = groups[last][1]
        if not free_right(data, end):
            continue
        written = data[start:end].decode("ascii")
        if not plus and international:
            written = "+" + written.lstrip("(0 ")
        if budget.check(is_phone, written, region):
            yield Found(start, end, "phone")
            return
