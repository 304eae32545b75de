"""Text as detectors read it: a byte for each character, and every way to write a digit, space or dash alike.

What looks like `4111 1111` to a reader may hold no-break spaces, full-width or Arabic-Indic digits,
typographic dashes and invisible marks of direction. All of that is levelled here; offsets lead back to the
text as it came.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

NO_BREAK_SPACE, SOFT_HYPHEN = b"\xa0", b"\xad"
INVISIBLE = "\x00"  # stands for a character that is then taken out
# What is drawn as nothing and is of another category: joiners, variation selectors, Hangul fillers.
DRAWN_AS_NOTHING = frozenset(
    (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE10), 0xFFA0,
     *range(0xE0100, 0xE01F0))
)  # fmt: skip
LETTER = "\xff"  # any cased letter beyond Latin-1, and any accent that is written as a character of its own


@dataclass(frozen=True, slots=True)
class Plain:
    """`data` in Latin-1, byte i being character `offsets[i]` of the text as it came (None: character i)."""

    data: bytes
    offsets: Sequence[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where bytes `start:end`, which are not empty, stand in the text as it came."""
        if self.offsets is None:
            return start, end
        return self.offsets[start], self.offsets[end - 1] + 1


class Levelled(dict[int, str]):
    """What each character counts as; filled as characters are met, so never larger than Unicode."""

    def __missing__(self, code: int) -> str:
        self[code] = found = level(chr(code))
        return found


LEVELLED = Levelled()


def plain(text: str) -> Plain:
    """The text as detectors read it. Linear; next to nothing for ASCII."""
    if text.isascii():
        return Plain(text.encode("ascii"))
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        pass
    else:
        if SOFT_HYPHEN not in data:
            return Plain(data.replace(NO_BREAK_SPACE, b" "))
    levelled = text.translate(LEVELLED)
    if INVISIBLE not in levelled:
        return Plain(levelled.encode("latin-1"))
    kept = [index for index, character in enumerate(levelled) if character != INVISIBLE]
    return Plain(levelled.replace(INVISIBLE, "").encode("latin-1"), kept)


@dataclass(frozen=True, slots=True)
class LevelledText:
    """`text`, character i being character `offsets[i]` of the text as it came (None: character i)."""

    text: str
    offsets: Sequence[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where characters `start:end` stand in the text as it came."""
        if self.offsets is None or end <= start:
            return start, end
        return self.offsets[start], self.offsets[end - 1] + 1


def levelled(text: str) -> LevelledText | None:
    """The text with digits, spaces and dashes as in ASCII, letters as they are; None when it is the same."""
    if text.isascii():
        return None
    changed = "".join(
        character if character.isalpha() and level(character) in (LETTER, "?") else LEVELLED[ord(character)]
        for character in text
    )
    if INVISIBLE in changed:
        kept = [index for index, character in enumerate(changed) if character != INVISIBLE]
        return LevelledText(changed.replace(INVISIBLE, ""), kept)
    return LevelledText(changed) if changed != text else None


def level(character: str) -> str:
    """One character of Latin-1 for any one of Unicode."""
    code, category = ord(character), unicodedata.category(character)
    if code < 0x80:
        return character if code else " "
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Cf" or code in DRAWN_AS_NOTHING:  # direction marks, joiners, the soft hyphen
        return INVISIBLE
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "Pd" or character == "\u2212":  # the minus sign is a symbol, not a dash
        return "-"
    if 0xFF01 <= code <= 0xFF5E:  # full-width ASCII
        return chr(code - 0xFEE0)
    if code <= 0xFF:
        return character
    if category in ("Lu", "Ll", "Lt", "Mn"):
        return LETTER
    return "?"  # also letters without case: Chinese or Arabic text puts numbers right beside words
