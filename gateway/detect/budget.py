"""How much checking one text may cost: what is made to be expensive is taken for the worst, unread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# A check takes 10 to 90 µs: this many are a second or two, off the event loop.
CHECKS_MAX: Final = 20_000


class TooDense(Exception):
    """The text holds more candidates than may be checked: it counts as holding everything."""


@dataclass(slots=True)
class Budget:
    """Counts the checks of one text."""

    left: int = CHECKS_MAX

    def check(self, valid: Callable[..., Any], *arguments: str) -> bool:
        """Whether the candidate is valid. Raises TooDense when too many were checked before."""
        if self.left <= 0:
            raise TooDense
        self.left -= 1
        return bool(valid(*arguments))
