"""How large a regular expression becomes when its counted repetitions are written out.

Twelve characters, `(a{999}){999}`, can ask for a million states: the engine would be busy for minutes before
it could refuse.
"""

from __future__ import annotations

import re

_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
_ESCAPE_OR_GROUP = re.compile(r"\\(?:x[01{]|x7[fF]|u00[01]|u007[fF]|u\{|.)|\(\?(?!:)", re.DOTALL)
_CONTROL_LETTERS = frozenset({r"\a", r"\v", r"\0", r"\c", r"\U"})
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def expanded_size(pattern: str) -> int:
    """The number of characters, classes and escapes in `pattern` with every count multiplied out.

    Exact for well-formed patterns without flags, roughly right for others.
    """
    # Per open group: the size so far without its last item, and the size of that item.
    groups = [[0, 0]]
    at = 0
    while at < len(pattern):
        match pattern[at]:
            case "(":
                groups.append([0, 0])
                at += 3 if pattern.startswith("(?:", at) else 1
            case ")":
                size = sum(groups.pop()) if len(groups) > 1 else 0
                _add(groups[-1], size)
                at += 1
            case "{" if count := _COUNT.match(pattern, at):
                groups[-1][1] *= max(int(count[1]), int(count[2] or 0))
                at = count.end()
            case "[" if klass := _CLASS.match(pattern, at):
                _add(groups[-1], 1)
                at = klass.end()
            case "*" | "+" | "?" | "|" | "^" | "$":
                at += 1
            case char:
                _add(groups[-1], 1)
                at += 2 if char == "\\" else 1
    return sum(size for group in groups for size in group)


def has_flags(pattern: str) -> bool:
    """Whether a group opens with anything but `(` or `(?:`: flags, names and looking around."""
    return any(found[0] == "(?" for found in _ESCAPE_OR_GROUP.finditer(pattern))


def has_controls(text: str) -> bool:
    """Whether a text holds a control character that JSON has no short escape for."""
    return _CONTROL.search(text) is not None


def names_controls(pattern: str) -> bool:
    """Whether a pattern holds such a character, or an escape that may stand for one."""
    escapes = (found[0] for found in _ESCAPE_OR_GROUP.finditer(pattern))
    return has_controls(pattern) or any(len(one) > 2 or one in _CONTROL_LETTERS for one in escapes)


def _add(group: list[int], size: int) -> None:
    group[0] += group[1]
    group[1] = size
