"""What the server tells of a request that ASGI says only to who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

EXTENSION: Final = "douane.arrival"  # its key in the scope's `extensions`


class Arrival:
    """One request as it comes in: whether all of it is here, and whether its client still is.

    Asking ASGI the same takes a timer and a task for each request, which is more than most steps of it take.
    """

    __slots__ = ("_told", "gone", "whole")

    def __init__(self) -> None:
        self.whole = False
        self.gone = False
        self._told: Callable[[], None] | None = None

    def when_gone(self, told: Callable[[], None] | None) -> None:
        """Calls `told` once the client has gone, at once if it has; None calls nobody any more."""
        self._told = told
        if self.gone and told is not None:
            told()

    def lose(self) -> None:
        """The client has gone."""
        self.gone = True
        if self._told is not None:
            self._told()
