"""Patterns that a bundle brings along, in RE2's syntax: it has nothing that takes more than linear time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import re2  # type: ignore[import-untyped]

from gateway.detect.kinds import Found
from gateway.detect.plain import levelled

PATTERN_CHARACTERS_MAX: Final = 1000
PROGRAM_MAX: Final = 5000  # instructions of RE2: about as many as characters that the pattern spells out


class PatternInvalid(ValueError):
    """RE2 does not take the pattern, or it is too large, or matches the empty text; with a hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern; `tenants` None is everyone's."""

    id: str
    tenants: frozenset[str] | None
    expression: Any  # re2 has no public name for its type

    def concerns(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants

    def find(self, text: str) -> list[Found]:
        """Every match in the text as it came; and, where that is not the same, in the text with its digits,
        spaces and dashes levelled."""
        if not text.isascii():  # half of a surrogate pair, which JSON can spell, has no UTF-8
            text = text.encode("utf-8", "replace").decode()
        found = [found_at(self.id, match.span()) for match in self.expression.finditer(text)]
        other = levelled(text)
        if other is not None:
            found += [
                found_at(self.id, other.span(*match.span())) for match in self.expression.finditer(other.text)
            ]
        return [one for one in found if one.end > one.start]


def found_at(kind: str, span: tuple[int, int]) -> Found:
    return Found(span[0], span[1], kind)


def compile_pattern(written: str) -> Any:
    """The expression. Raises PatternInvalid."""
    if len(written) > PATTERN_CHARACTERS_MAX:
        raise PatternInvalid(
            f"the pattern has {len(written)} characters, more than {PATTERN_CHARACTERS_MAX}",
            "split it into several patterns",
        )
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        expression = re2.compile(written, options)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        raise PatternInvalid(
            f"RE2 does not take the pattern: {said}",
            "write it in RE2's syntax, which has no look-around and no back-references",
        ) from None
    if expression.programsize > PROGRAM_MAX:
        raise PatternInvalid(
            f"the pattern compiles to {expression.programsize} instructions, more than {PROGRAM_MAX}",
            "lower its repetition counts, or split it",
        )
    if expression.search("") is not None:
        raise PatternInvalid(
            "the pattern matches the empty text, and so every text", "ask for at least one character"
        )
    return expression
