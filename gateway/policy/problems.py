"""What can be wrong with a bundle, each with where it is and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault of one file. Lines and columns count from 1; line 0 is the file as a whole."""

    file: str
    line: int
    column: int | None
    message: str
    hint: str

    def text(self) -> str:
        """One line such as `places.yaml:12:5: unknown key `regoin`; did you mean `region`?`."""
        parts = (self.file, self.line or None, self.column)
        where = ":".join(str(part) for part in parts if part is not None)
        return f"{where}: {self.message}; {self.hint}"

    def wire(self) -> Mapping[str, Any]:
        """For JSON output."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "hint": self.hint,
        }


class PolicyInvalid(Exception):
    """The bundle does not load. `problems` is never empty."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(problem.text() for problem in self.problems))


class PolicyTestsFailed(Exception):
    """The bundle is well formed, but its own tests fail. `failures` holds one text for each case."""

    def __init__(self, failures: tuple[str, ...]) -> None:
        self.failures = failures
        super().__init__("\n".join(failures))


class PolicyClaimsFailed(Exception):
    """The bundle is well formed, but a claim of its own does not hold. `problems` has one for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(problem.text() for problem in self.problems))


class PolicyUntrusted(Exception):
    """The bundle may be well formed, but nobody who is trusted vouches for it, or an older one comes back.

    `reason` is `unsigned`, `signature`, `too_few_signatures` or `serial`. `problems` is never empty.
    """

    def __init__(self, reason: str, problems: Iterable[Problem]) -> None:
        self.reason = reason
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(problem.text() for problem in self.problems))


# Everything for which a bundle is refused on purpose.
REFUSALS: Final = (PolicyInvalid, PolicyTestsFailed, PolicyClaimsFailed, PolicyUntrusted)


def reason_of(refused: Exception) -> str:
    """The refusal in one word; `unreadable` for whatever nobody foresaw."""
    if isinstance(refused, PolicyUntrusted):
        return refused.reason
    words = {PolicyInvalid: "invalid", PolicyTestsFailed: "tests_failed", PolicyClaimsFailed: "claims_failed"}
    return next((word for kind, word in words.items() if isinstance(refused, kind)), "unreadable")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint: the nearest known word, else all of them."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1) or [w for w in words if w.lower() == word.lower()]
    if near:
        return f"did you mean `{near[0]}`?"
    if not words:
        return "none is defined"
    if len(words) > 24:
        return f"use one such as `{', '.join(words[:8])}`"
    return f"use one of `{', '.join(words)}`"
