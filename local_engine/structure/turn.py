"""The automaton of one assistant's turn, from behind `<|start|>assistant` to its end.

    HEADER  -- <|message|> -->  TEXT or JSON
    TEXT    -- <|end|> -->      FORCED `<|start|>assistant`  -->  HEADER
    JSON    -- <|end|> -->      the same, before one more call
    TEXT, JSON  -- <|return|>, <|call|> -->  ENDED

A turn has at most one message of analysis, then at most one preamble, then what was asked for. Both together
hold at most `budget` tokens: then `<|end|>` is the only token left. Reserved tokens, `<|endoftext|>`, and any
special token that a place does not call for are never allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from local_engine.errors import Fault
from local_engine.harmony.tokens import CALL, FIRST_SPECIAL, MESSAGE, RETURN
from local_engine.structure import masks
from local_engine.structure.grammars import JsonGrammar, JsonText
from local_engine.structure.headers import Node


class Stage(Enum):
    """How far a turn has come: what its next message may be."""

    OPENING = auto()
    REASONED = auto()
    ACTING = auto()
    CALLED = auto()


@dataclass(frozen=True, slots=True)
class Body:
    """What follows a header.

    `grammar` None is free text. `ends` are the special tokens that close it; after `<|end|>` the turn goes on
    at stage `then`. `budgeted` content counts against the reasoning budget.
    """

    ends: tuple[int, ...]
    then: Stage
    grammar: JsonGrammar | None = None
    budgeted: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What every choice of a request shares. `resume` are the tokens forced between two messages."""

    stages: Mapping[Stage, Node[Body]]
    budget: int
    resume: tuple[int, ...]
    ordinary: masks.Mask


class Turn:
    """One choice's way through a plan. Implements the engine's `Grammar`.

    `fill` and `accept` may run on different threads, never at the same time.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._spent = 0
        self._forced: list[int] = []
        self._body: Body | None = None
        self._text: JsonText | None = None
        self._node = self._header_at(Stage.OPENING)
        self._ended = False

    @property
    def ended(self) -> bool:
        """True once the turn was closed with `<|return|>` or `<|call|>`."""
        return self._ended

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of analysis and preamble so far."""
        return self._spent

    def fill(self, mask: masks.Mask) -> None:
        """Writes int32[6284]: the tokens allowed next, never none; after the end `<|return|>` alone.

        Raises `ValueError` for another shape, `Fault` when a schema becomes too complex or leads nowhere.
        """
        masks.check(mask)
        if self._ended:
            masks.allow_only(mask, (RETURN,))
        elif self._forced:
            masks.allow_only(mask, self._forced[:1])
        elif self._body is None:
            masks.allow_only(mask, self._node.tokens)
        elif self._text is not None:
            self._fill_json(mask, self._text, self._body)
        elif self._exhausted(self._body):
            masks.allow_only(mask, self._body.ends)
        else:
            mask[:] = self._plan.ordinary
            masks.allow(mask, self._body.ends)

    def accept(self, token: int) -> None:
        """Takes the token that was sampled.

        Raises `AssertionError` for one that `fill` did not allow: the engine's mistake, never the model's.
        """
        if not self._advance(token):
            raise AssertionError(f"token {token} is not allowed here: the mask was not applied")

    def _advance(self, token: int) -> bool:
        if self._ended:
            return token == RETURN
        if self._forced:
            return token == self._forced.pop(0)
        if self._body is None:
            return self._in_header(token)
        if token in self._body.ends:
            return self._close(token, self._body)
        if token >= FIRST_SPECIAL or self._exhausted(self._body):
            return False
        if self._text is not None:
            return self._text.push(token)
        self._spent += self._body.budgeted
        return True

    def _in_header(self, token: int) -> bool:
        if token == MESSAGE and self._node.leaf is not None:
            self._body = self._node.leaf
            self._text = None if self._body.grammar is None else self._body.grammar.start()
            return True
        if token in self._node.children:
            self._node = self._node.children[token]
            return True
        return False

    def _close(self, token: int, body: Body) -> bool:
        if self._text is not None and not self._text.complete:
            return False
        self._body = self._text = None
        if token in (RETURN, CALL):
            self._ended = True
        else:
            self._forced = list(self._plan.resume)
            self._node = self._header_at(body.then)
        return True

    def _header_at(self, stage: Stage) -> Node[Body]:
        """The headers of a stage; without budget left, nothing that would need it is begun."""
        if self._spent >= self._plan.budget and stage in (Stage.OPENING, Stage.REASONED):
            stage = Stage.ACTING
        return self._plan.stages[stage]

    def _exhausted(self, body: Body) -> bool:
        return body.budgeted and self._spent >= self._plan.budget

    def _fill_json(self, mask: masks.Mask, text: JsonText, body: Body) -> None:
        text.fill(mask)
        if text.complete:
            masks.allow(mask, body.ends)
        elif not mask.any():
            raise Fault("a schema of the request leads to where no value fits: check its references")
