"""One request's place in the engine, and the steps whose results are still out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_engine.scheduler import Plan, Sequence
from local_engine.steps import Deliver, Grammar, Ticket

if TYPE_CHECKING:
    from local_engine.engine import Engine


@dataclass(slots=True, eq=False)
class Choice:
    """A sequence with what the engine keeps beside it."""

    sequence: Sequence
    generation: Generation
    grammar: Watched | None


class Watched:
    """A grammar whose failure is remembered, so that it ends its own request and no other."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self.error: Exception | None = None

    def fill(self, mask: Any) -> None:
        try:
            self._grammar.fill(mask)
        except Exception as error:
            self.error = error
            mask.fill(-1)

    def accept(self, token: int) -> None:
        try:
            self._grammar.accept(token)
        except Exception as error:
            self.error = error


class Generation:
    """One request's place in the engine: one or more choices over the same prompt."""

    def __init__(self, engine: Engine, deliver: Deliver, submitted_s: float) -> None:
        self.deliver = deliver
        self.submitted_s = submitted_s
        self.choices: tuple[Choice, ...] = ()
        self._engine = engine

    def cancel(self, choice: int | None = None) -> None:
        """Ends one choice, or all, before the next step; harmless at any time, from any thread."""
        self._engine._cancel([c for c in self.choices if choice in (None, c.sequence.choice)])

    def hold(self) -> None:
        """Computes nothing more for this request until `release`: its reader is too slow."""
        self._hold(True)

    def release(self) -> None:
        """Goes on."""
        self._hold(False)

    def _hold(self, held: bool) -> None:
        for choice in self.choices:
            choice.sequence.held = held
        self._engine._wake()


class Pending:
    """Steps whose results are not taken yet: none, or one while the device works ahead of the host."""

    def __init__(self, overlaps: bool) -> None:
        self._overlaps = overlaps
        self._steps: deque[tuple[Plan, Ticket]] = deque()

    def settle(self, plan: Plan, ticket: Ticket | None) -> Iterator[tuple[Plan, Ticket]]:
        """Takes the newest step (None: nothing was to do); yields those whose results are due, in order."""
        if ticket is not None:
            self._steps.append((plan, ticket))
        left = 1 if self._overlaps and ticket is not None and not plan.synchronous else 0
        while len(self._steps) > left:
            yield self._steps.popleft()

    def __bool__(self) -> bool:
        return bool(self._steps)

    def clear(self) -> None:
        """Forgets what is under way."""
        self._steps.clear()
