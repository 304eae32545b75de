"""How large a regular expression becomes when its counted repetitions are written out.

Twelve characters, `(a{999}){999}`, can ask for a million states: the engine would be busy for minutes before
it could refuse.
"""

from __future__ import annotations

import re

_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
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
    return re.search(r"(?<!\\)(?:\\\\)*\(\?(?!:)", pattern) is not None


def _add(group: list[int], size: int) -> None:
    group[0] += group[1]
    group[1] = size
