"""From sampled tokens to the pieces of an OpenAI answer.

Pure: one `Assembler` per choice, fed token by token. What the channels become: analysis is reasoning;
final, and commentary addressed to nobody, is content; anything addressed to a function is a tool call.

Stop strings and log-probabilities concern content and the arguments of tool calls, never analysis, headers or
control tokens. A stop string in arguments ends the answer there, so they are cut and rarely valid json. The
API has one list of log-probabilities a choice: those of arguments stand in it where their tokens came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from local_engine.harmony.parse import Event, HarmonyParser, Header, MessageEnd, MessageStart, TextDelta
from local_engine.harmony.tokens import FIRST_SPECIAL, Tokenizer
from local_engine.steps import Token
from local_engine.text import Outlet, Shown, TokenLogprob

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More content, with the log-probabilities of the tokens that begin in it."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CallStart:
    """Tool call `index` begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of tool call `index`, with the log-probabilities of its tokens."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


Piece = ReasoningDelta | ContentDelta | CallStart | CallArguments


class _Kind(Enum):
    REASONING = auto()
    CONTENT = auto()
    CALL = auto()


class Assembler:
    """Builds one choice.

    Where no functions are offered, what the model addresses to a tool is kept as reasoning, for the client
    could not answer it. Without `parallel` the answer ends with its first call. `new_id` makes tool call ids.
    `tokens` is what was sampled, as far as it counts.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        offers_tools: bool,
        new_id: Callable[[], str],
        *,
        parallel: bool = True,
    ) -> None:
        self._parser = HarmonyParser(tokenizer)
        self._outlet = Outlet(stops, tokenizer)
        self._offers_tools = offers_tools
        self._parallel = parallel
        self._new_id = new_id
        self._kind = _Kind.CONTENT
        self._calls = 0
        self._called = 0
        self._spoken = False
        self._gap_due = False
        self.tokens: list[int] = []
        self.reasoning_tokens = 0

    @property
    def completion_tokens(self) -> int:
        """How many tokens were sampled, reasoning included."""
        return len(self.tokens)

    @property
    def done(self) -> bool:
        """True once nothing that the model could add would be shown."""
        enough = not self._parallel and self._called > 0
        return self._parser.done or self._outlet.stopped or enough

    def push(self, token: Token) -> list[Piece]:
        """Takes one sampled token; returns the pieces it completes. What comes after `done` is ignored."""
        if self.done:
            return []
        self.tokens.append(token.id)
        # Of the message that the token falls into, so before the parser takes it.
        if self._parser.header is not None and token.id < FIRST_SPECIAL:
            if self._kind is _Kind.REASONING:
                self.reasoning_tokens += 1
            else:
                self._outlet.count(token.id, token.logprobs)
        return self._pieces(self._parser.push(token.id))

    def finish(self, reason: Literal["stop", "length", "cancelled"]) -> tuple[list[Piece], FinishReason]:
        """The tokens have ended; returns the last pieces and OpenAI's `finish_reason`."""
        cut_off = reason == "length" and not self.done
        pieces = [] if self._outlet.stopped else self._pieces(self._parser.finish())
        if self._outlet.stopped:
            return pieces, "stop"
        if cut_off:
            return pieces, "length"
        return pieces, "tool_calls" if self._calls else "stop"

    def _pieces(self, events: list[Event]) -> list[Piece]:
        pieces: list[Piece] = []
        for event in events:
            match event:
                case MessageStart(header=header):
                    pieces += self._start(header)
                case TextDelta(text=text):
                    pieces += self._more(text)
                case MessageEnd() if self._kind is not _Kind.REASONING:
                    pieces += self._show(self._outlet.end())
                    self._called = self._calls
        return pieces

    def _start(self, header: Header) -> list[Piece]:
        self._kind = self._kind_of(header)
        match self._kind:
            case _Kind.CALL:
                self._calls += 1
                name = (header.recipient or "").removeprefix("functions.")
                return [CallStart(self._calls - 1, self._new_id(), name)]
            case _Kind.CONTENT:
                # A preamble and the final message are two messages to the model, one to the client.
                self._gap_due = self._spoken
        return []

    def _kind_of(self, header: Header) -> _Kind:
        if header.recipient not in (None, "assistant", "all", "user"):
            return _Kind.CALL if self._offers_tools else _Kind.REASONING
        return _Kind.REASONING if header.channel == "analysis" else _Kind.CONTENT

    def _more(self, text: str) -> list[Piece]:
        if self._kind is _Kind.REASONING:
            return [ReasoningDelta(text)]
        if self._kind is _Kind.CONTENT:
            text = "\n\n" + text if self._gap_due else text
            self._spoken, self._gap_due = True, False
        return self._show(self._outlet.push(text))

    def _show(self, shown: Shown) -> list[Piece]:
        if not shown.text:
            return []
        if self._kind is _Kind.CALL:
            return [CallArguments(self._calls - 1, shown.text, shown.logprobs)]
        return [ContentDelta(shown.text, shown.logprobs)]


def coalesced(pieces: Sequence[Piece]) -> list[Piece]:
    """The same pieces, neighbours of one kind made into one."""
    out: list[Piece] = []
    for piece in pieces:
        match (out[-1] if out else None, piece):
            case ReasoningDelta(text=text), ReasoningDelta(text=more):
                out[-1] = ReasoningDelta(text + more)
            case ContentDelta(text=text, logprobs=before), ContentDelta(text=more, logprobs=behind):
                out[-1] = ContentDelta(text + more, before + behind)
            case CallArguments(index=n, text=text, logprobs=before), CallArguments(
                index=m, text=more, logprobs=behind
            ) if n == m:
                out[-1] = CallArguments(n, text + more, before + behind)
            case _:
                out.append(piece)
    return out
