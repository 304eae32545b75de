"""What stands beside a candidate: a word that says what it is, or something that it is only a part of."""

from __future__ import annotations

import re
from typing import Final

BEFORE_BYTES: Final = 40
AFTER_BYTES: Final = 24
GLUED_BYTES: Final = 24

# What says that a number is of this kind. Those that chance would often make valid count only beside one.
WORDS: Final = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in {
        "card": rb"card|karte|carte|tarjeta|carta|kaart|kort|karta|visa|mastercard|amex|pan\b",
        "nl-bsn": rb"\bbsn|burgerservice|sofi|citizen service",
        "gb-nhs": rb"\bnhs",
        "us-ssn": rb"\bssn|social sec|soc\. ?sec",
        "se-personnummer": rb"personnummer|personnr|\bpnr|personal identity|samordning",
        "de-idnr": rb"idnr|id-nr|steuer|tax",
        "pl-pesel": rb"pesel",
        "be-nn": rb"rijksregister|registre national|national register|nationaal num|\bnn\b|\brrn|insz|niss",
        "ch-ahv": rb"\bahv|\bavs",
        "es-dni": rb"\bdni|\bnif",
        "fr-nir": rb"\bnir\b|s\xe9cu|secu|\binsee",
        "phone": (
            rb"\b(?:tel|t\xe9l|phone|telephone|telefon|telefono|tel\xe9fono|t\xe9l\xe9phone|telefoon|fon|"
            rb"mobile|mobil|m\xf3vil|mobiel|cell|cellulare|handy|natel|portable|call|ring|dial|fax|whatsapp|"
            rb"sms|text|gsm|rufnummer|anrufen|appeler|llamar|bel|tlf|nummer|hotline|durchwahl)"
            rb"(?:nummer|number|nr|no)?(?![a-z])"
        ),
    }.items()
}

WORD_CHARACTERS: Final = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_" + bytes(range(0xC0, 0x100))
)
ESCAPES: Final = b"nrtbf"  # of JSON: the n of `\n` is no letter
JOINS: Final = b"-./\\"
CENTS = re.compile(rb",[0-9]{2}(?![0-9])")
DIGITS_WITH_CENTS_MAX: Final = 12


def says(kind: str, data: bytes, start: int, end: int) -> bool:
    """Whether a word of this kind stands shortly before or after."""
    words = WORDS[kind]
    return (
        words.search(data, max(0, start - BEFORE_BYTES), start) is not None
        or words.search(data, end, end + AFTER_BYTES) is not None
    )


def says_before(kind: str, data: bytes, start: int) -> bool:
    """Whether a word of this kind stands shortly before."""
    return WORDS[kind].search(data, max(0, start - BEFORE_BYTES), start) is not None


def free_left(data: bytes, start: int) -> bool:
    """Whether what begins at `start` is not the rest of a word, path, number or name."""
    if start == 0:
        return True
    last = data[start - 1]
    if last in WORD_CHARACTERS:
        return escaped(data, start)
    if last in JOINS and start > 1 and data[start - 2] in WORD_CHARACTERS:
        return escaped(data, start - 1)
    return True


def escaped(data: bytes, start: int) -> bool:
    """Whether the character before `start` belongs to an escape such as `\\n` of text inside JSON."""
    return start > 1 and data[start - 1] in ESCAPES and data[start - 2] == 0x5C


def free_right(data: bytes, end: int, digits: int = 0) -> bool:
    """Whether what ends at `end` (with so many digits) is not the beginning of a longer word or number."""
    if end == len(data):
        return True
    following = data[end]
    if following in WORD_CHARACTERS or following in b"@%":
        return False
    if following in JOINS and following != 0x5C and end + 1 < len(data) and data[end + 1] in WORD_CHARACTERS:
        return False
    return not (digits and digits <= DIGITS_WITH_CENTS_MAX and CENTS.match(data, end))


def glued_word_says(kind: str, data: bytes, start: int) -> bool:
    """Whether the word that `start` is glued to, as in `BSN123456782`, says that it is of this kind."""
    begin = start
    while begin > 0 and start - begin < GLUED_BYTES and data[begin - 1] in WORD_CHARACTERS | frozenset(b"-"):
        begin -= 1
    return kind in WORDS and WORDS[kind].search(data, begin, start) is not None
