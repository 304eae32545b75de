"""A conversation in a terminal: reasoning dim, answers plain, a few commands, and a line of speed behind
each.

Works over any `Voice`: the engine in this process, or one that runs elsewhere and is reached over HTTP.
Without a terminal, lines of the standard input are turns, and nothing but the answers' text is printed plain.
"""

from __future__ import annotations

import json
import queue
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Any, Protocol, TextIO, get_args

from rich.console import Console

from local_engine.answer import Assembler, ContentDelta, Piece, ReasoningDelta
from local_engine.engine import Engine
from local_engine.errors import EngineError
from local_engine.harmony.conversation import Effort
from local_engine.harmony.render import render_prompt
from local_engine.harmony.tokens import Tokenizer
from local_engine.prompt import conversation_of
from local_engine.replay import Replay, Seen
from local_engine.sampling import SamplingParams
from local_engine.steps import Failed, Step, Token
from local_engine.wire import parse_chat_request

HELP = """\
/effort low|medium|high   how long to think before answering
/reset                    forget the conversation
/help                     this list
Ctrl-C stops an answer, Ctrl-D leaves."""

EFFORTS = get_args(Effort)


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of an answer: `text`, which is reasoning or not."""

    text: str
    reasoning: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete: why, and its tokens, reasoning included; None when nobody counted."""

    reason: str
    tokens: int | None


class Voice(Protocol):
    """Who answers."""

    def answer(self, body: dict[str, Any]) -> Iterator[Said | Ended]:
        """Pieces of the answer to an OpenAI chat request, then `Ended`. Closing it early stops the answer.

        Raises `EngineError`.
        """


@dataclass(frozen=True, slots=True)
class EngineVoice:
    """The engine in this process, started by whoever made it.

    `replay` remembers what was sampled, so that a conversation goes on from the very tokens.
    """

    engine: Engine
    tokenizer: Tokenizer
    replay: Replay
    today: Callable[[], date] = date.today

    def answer(self, body: dict[str, Any]) -> Iterator[Said | Ended]:
        """See `Voice`."""
        request = parse_chat_request(json.dumps(body).encode())
        messages = conversation_of(request, self.today(), partial(self.replay.recall, None))
        prompt = render_prompt(messages, self.tokenizer)
        room = max(1, self.engine.max_context_tokens - len(prompt))
        params = SamplingParams(
            max_tokens=min(request.max_completion_tokens or room, room),
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=secrets.randbits(63) if request.seed is None else request.seed,
        )
        steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        assembler = Assembler(self.tokenizer, (), False, lambda: secrets.token_hex(8))
        heard: list[Said] = []
        generation = self.engine.submit(prompt, params, steps.put)
        step: Step | None = None
        try:
            while isinstance(step := steps.get(), Token):
                said = _said(assembler.push(step))
                heard += said
                yield from said
                if assembler.done:
                    break
        finally:
            generation.cancel()
            # Only when the engine let go is it free for the next turn.
            while step is None or isinstance(step, Token):
                step = steps.get()
        if isinstance(step, Failed):
            raise step.error
        pieces, reason = assembler.finish("stop" if assembler.done else step.reason)
        heard += (said := _said(pieces))
        yield from said
        content, reasoning = (
            "".join(one.text for one in heard if one.reasoning == kind) for kind in (False, True)
        )
        self.replay.remember(None, Seen(content, (), reasoning), assembler.tokens)
        yield Ended(reason, assembler.completion_tokens)


@dataclass(slots=True)
class Chat:
    """A conversation so far, and how to go on with it.

    `options` are further fields of every request, such as `temperature`. `clock` is read for the speed line.
    """

    voice: Voice
    model: str
    console: Console
    instructions: str | None = None
    effort: Effort = "medium"
    options: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    history: list[dict[str, str]] = field(default_factory=list)

    def run(self, read: Callable[[], str | None]) -> None:
        """Takes turns until `read` gives None."""
        while (line := read()) is not None:
            if line.startswith("/"):
                self._command(line.split())
            elif line.strip():
                self.turn(line)

    def turn(self, text: str) -> None:
        """One message and its answer. Ctrl-C stops the answer, and what came stays part of the
        conversation.
        """
        content: list[str] = []
        ended: Ended | None = None
        began_s, first_s = self.clock(), None
        pen = _Pen(self.console)
        try:
            with closing(_generator(self.voice.answer(self._body(text)))) as pieces:
                for piece in pieces:
                    if isinstance(piece, Ended):
                        ended = piece
                        continue
                    first_s = self.clock() if first_s is None else first_s
                    pen.write(piece)
                    content += [] if piece.reasoning else [piece.text]
        except KeyboardInterrupt:
            pen.end()
            self._note("stopped")
        except EngineError as error:
            pen.end()
            self.console.out(f"error: {error}", style="red", highlight=False)
            self._note("/reset forgets the conversation")
        pen.end()
        if content:
            self.history += [
                {"role": "user", "content": text},
                {"role": "assistant", "content": "".join(content)},
            ]
        if ended is not None:
            self._note(_speed(ended, first_s, began_s, self.clock()))

    def _body(self, text: str) -> dict[str, Any]:
        opening = [] if self.instructions is None else [{"role": "developer", "content": self.instructions}]
        return {
            "model": self.model,
            "messages": [*opening, *self.history, {"role": "user", "content": text}],
            "reasoning_effort": self.effort,
            **self.options,
        }

    def _command(self, words: list[str]) -> None:
        match words:
            case ["/reset"]:
                self.history.clear()
                self._note("the conversation is forgotten")
            case ["/effort", effort] if effort in EFFORTS:
                self.effort = effort  # type: ignore[assignment]
                self._note(f"reasoning effort: {effort}")
            case ["/help"]:
                self._note(HELP)
            case _:
                self._note(f"no such command: {printable(' '.join(words))}\n{HELP}")

    def _note(self, text: str) -> None:
        self.console.out(text, style="dim", highlight=False)


class _Pen:
    """Writes pieces as they come, with a line between reasoning and answer."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._reasoning: bool | None = None
        self._at_line_start = True

    def write(self, piece: Said) -> None:
        if self._reasoning is not None and self._reasoning != piece.reasoning:
            self.end()
        self._reasoning = piece.reasoning
        text = printable(piece.text)
        self._console.out(text, style="dim" if piece.reasoning else None, highlight=False, end="")
        self._at_line_start = text.endswith("\n") if text else self._at_line_start

    def end(self) -> None:
        """Ends the line, if one is begun."""
        if not self._at_line_start:
            self._console.out("")
        self._at_line_start = True


def reader(source: TextIO, console: Console) -> Callable[[], str | None]:
    """Reads turns: with a prompt and line editing from a terminal, plain lines from anything else.

    None means the end, Ctrl-D. Ctrl-C at the prompt drops what was typed.
    """

    def typed() -> str | None:
        while True:
            try:
                return input("> ")
            except KeyboardInterrupt:
                console.out("\n(Ctrl-D leaves)", style="dim", highlight=False)
            except EOFError:
                console.out("")
                return None

    if source.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - gives `input` line editing and a history
        console.out("/help lists commands, Ctrl-D leaves", style="dim", highlight=False)
        return typed
    return lambda: line.rstrip("\n") if (line := source.readline()) else None


def printable(text: str) -> str:
    """Text that cannot drive a terminal: control characters but line ends and tabs are shown as U+FFFD."""
    return "".join(
        c if c in "\n\t" or not (c < " " or "\x7f" <= c < "\xa0") else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def _said(pieces: Sequence[Piece]) -> list[Said]:
    """What a person sees of an answer's pieces. No functions are offered, so none are called."""
    return [
        Said(piece.text, isinstance(piece, ReasoningDelta))
        for piece in pieces
        if isinstance(piece, ReasoningDelta | ContentDelta)
    ]


def _generator(pieces: Iterator[Said | Ended]) -> Any:
    """The same iterator, typed as something that can be closed, which voices' generators can."""
    return pieces


def _speed(ended: Ended, first_s: float | None, began_s: float, now_s: float) -> str:
    first = "" if first_s is None else f", the first after {first_s - began_s:.2f} s"
    if ended.tokens is None:
        return f"{now_s - began_s:.1f} s{first}"
    cut = ", cut off at the limit" if ended.reason == "length" else ""
    rate = ended.tokens / max(now_s - began_s, 1e-9)
    return f"{ended.tokens} tokens in {now_s - began_s:.1f} s, {rate:.1f} tokens/s{first}{cut}"
