"""From sampled tokens to the pieces of an OpenAI answer.

Pure: one `Assembler` per answer, fed token by token. What the channels become: analysis is reasoning;
final, and commentary addressed to nobody, is content; anything addressed to a function is a tool call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from local_engine.engine import Token
from local_engine.harmony.parse import Event, HarmonyParser, Header, MessageEnd, MessageStart, TextDelta
from local_engine.harmony.tokens import FIRST_SPECIAL, Tokenizer

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One content token with its bytes and natural log-probability, and the likeliest alternatives."""

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More content, with the log-probabilities of the tokens that begin in it."""

    text: str
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class CallStart:
    """Tool call `index` begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of tool call `index`."""

    index: int
    text: str


Piece = ReasoningDelta | ContentDelta | CallStart | CallArguments


class _Kind(Enum):
    REASONING = auto()
    CONTENT = auto()
    CALL = auto()


class StopFinder:
    """Cuts text at the first of several strings, holding back what may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Takes more text; returns what is safe to show."""
        self._held += text
        hits = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if hits:
            self.found = True
            shown, self._held = self._held[: min(hits)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """The text has ended: what was held back is no stop string after all."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


class Assembler:
    """Builds one answer.

    `offered` are the names of the functions the request offered; without any, what the model addresses to a
    tool is kept as reasoning, for the client could not answer it. `new_id` makes tool call ids.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], offers_tools: bool, new_id: Callable[[], str]
    ) -> None:
        self._tokenizer = tokenizer
        self._parser = HarmonyParser(tokenizer)
        self._stop = StopFinder(stops)
        self._offers_tools = offers_tools
        self._new_id = new_id
        self._kind = _Kind.CONTENT
        self._calls = 0
        self._spoken = False
        self._gap_due = False
        self._pending: list[tuple[int, TokenLogprob]] = []
        self._arrived_chars = 0
        self._shown_chars = 0
        self.completion_tokens = 0
        self.reasoning_tokens = 0

    @property
    def done(self) -> bool:
        """True once nothing that the model could add would be shown."""
        return self._parser.done or self._stop.found

    def push(self, token: Token) -> list[Piece]:
        """Takes one sampled token; returns the pieces it completes."""
        self.completion_tokens += 1
        if self._stop.found:
            return []
        before = self._parser.header
        inside = before is not None and self._kind_of(before) is not _Kind.CALL
        if inside and token.id < FIRST_SPECIAL:
            self._count(token)
        return self._pieces(self._parser.push(token.id))

    def finish(self, reason: Literal["stop", "length", "cancelled"]) -> tuple[list[Piece], FinishReason]:
        """The tokens have ended; returns the last pieces and OpenAI's `finish_reason`."""
        pieces = [] if self._stop.found else self._pieces(self._parser.finish())
        if self._stop.found:
            return pieces, "stop"
        if reason == "length":
            return pieces, "length"
        return pieces, "tool_calls" if self._calls else "stop"

    def _count(self, token: Token) -> None:
        if self._kind is _Kind.REASONING:
            self.reasoning_tokens += 1
        elif self._kind is _Kind.CONTENT and token.logprobs is not None:
            top = tuple((self._tokenizer.token_bytes(i), value) for i, value in token.logprobs.top)
            chosen = TokenLogprob(self._tokenizer.token_bytes(token.id), token.logprobs.chosen, top)
            self._pending.append((self._arrived_chars, chosen))

    def _pieces(self, events: list[Event]) -> list[Piece]:
        pieces: list[Piece] = []
        for event in events:
            match event:
                case MessageStart(header=header):
                    pieces += self._start(header)
                case TextDelta(text=text):
                    pieces += self._more(text)
                case MessageEnd():
                    pieces += self._end()
        return pieces

    def _kind_of(self, header: Header) -> _Kind:
        if header.recipient not in (None, "assistant", "all", "user"):
            return _Kind.CALL if self._offers_tools else _Kind.REASONING
        return _Kind.REASONING if header.channel == "analysis" else _Kind.CONTENT

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

    def _more(self, text: str) -> list[Piece]:
        match self._kind:
            case _Kind.REASONING:
                return [ReasoningDelta(text)]
            case _Kind.CALL:
                return [CallArguments(self._calls - 1, text)]
            case _Kind.CONTENT:
                text = "\n\n" + text if self._gap_due else text
                self._spoken, self._gap_due = True, False
                self._arrived_chars += len(text)
                return self._show(self._stop.push(text))

    def _end(self) -> list[Piece]:
        if self._kind is not _Kind.CONTENT or self._stop.found:
            return []
        return self._show(self._stop.flush())

    def _show(self, text: str) -> list[Piece]:
        self._shown_chars += len(text)
        ready = [chosen for at, chosen in self._pending if at < self._shown_chars]
        self._pending = self._pending[len(ready) :]
        return [ContentDelta(text, tuple(ready))] if text else []
