"""The chat in a terminal keeps a conversation, shows reasoning dim, and survives what goes wrong."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from local_engine.engine import Engine
from local_engine.errors import Busy, Fault, Refused
from local_engine.harmony.tokens import CHANNEL, END, MESSAGE, RETURN, START
from local_engine.replay import Replay
from local_engine.terminal import HELP, Chat, Ended, EngineVoice, Said, printable, reader
from local_engine.vocabulary import Vocabulary
from tests.local_engine.told import ToldRunner, told_engine

Answer = list[Said | Ended | BaseException]


@dataclass
class ScriptedVoice:
    """Answers each turn with the next list; an exception in it is raised there."""

    answers: list[Answer]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0

    def answer(self, body: dict[str, Any]) -> Iterator[Said | Ended]:
        self.bodies.append(body)
        try:
            for piece in self.answers[len(self.bodies) - 1]:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed += 1


def conversation(voice: ScriptedVoice, lines: str, **options: Any) -> tuple[str, Chat]:
    """What the terminal shows for typed lines, and the chat behind it. Each look at the clock is a second."""
    ticks = iter(range(1000))
    console = Console(file=io.StringIO(), width=80)
    chat = Chat(voice, "gpt-oss-20b", console, clock=lambda: float(next(ticks)), **options)
    chat.run(reader(io.StringIO(lines), console))
    shown = console.file
    assert isinstance(shown, io.StringIO)
    return shown.getvalue(), chat


def said(*texts: str) -> Answer:
    """Content only, and its end after as many tokens."""
    return [*(Said(text, reasoning=False) for text in texts), Ended("stop", len(texts))]


def test_turns_are_answered_with_what_was_said_before() -> None:
    voice = ScriptedVoice([said("Hel", "lo"), said("Bye")])
    shown, chat = conversation(
        voice, "Hi\n\nSo long\n", instructions="Be kind.", options={"temperature": 0.0}
    )

    assert shown == (
        "Hello\n2 tokens in 2.0 s, 1.0 tokens/s, the first after 1.00 s\n"
        "Bye\n1 tokens in 2.0 s, 0.5 tokens/s, the first after 1.00 s\n"
    )
    assert voice.bodies[0] == {
        "model": "gpt-oss-20b",
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
        ],
        "reasoning_effort": "medium",
        "temperature": 0.0,
    }
    assert voice.bodies[1]["messages"] == [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "So long"},
    ]
    assert len(chat.history) == 4


def test_commands_change_the_conversation_and_are_not_part_of_it() -> None:
    voice = ScriptedVoice([said("a"), said("b")])
    shown, _ = conversation(voice, "one\n/effort high\n/effort hi\n/reset\ntwo\n/help\n")

    assert [body["reasoning_effort"] for body in voice.bodies] == ["medium", "high"]
    assert voice.bodies[1]["messages"] == [{"role": "user", "content": "two"}]
    assert re.sub(r"\d tokens in .*\n", "", shown) == (
        f"a\nreasoning effort: high\nno such command: /effort hi\n{HELP}\nthe conversation is "
        f"forgotten\nb\n{HELP}\n"
    )


def test_reasoning_is_dim_and_apart_and_not_repeated_to_the_model() -> None:
    thought = [Said("hm, ", reasoning=True), Said("so", reasoning=True), *said("Yes", ".\n")]
    voice = ScriptedVoice([thought, said("No")])
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    chat = Chat(voice, "m", console, clock=lambda: 0.0)
    chat.turn("really?")
    chat.turn("sure?")
    shown = console.file.getvalue()  # type: ignore[attr-defined]

    assert shown.startswith("\x1b[2mhm, \x1b[0m\x1b[2mso\x1b[0m\nYes.\n\x1b[2m2 tokens in")
    assert voice.bodies[1]["messages"][1] == {"role": "assistant", "content": "Yes.\n"}


def test_an_answer_cut_off_says_so_and_an_uncounted_one_says_how_long_it_took() -> None:
    cut: Answer = [Said("a", reasoning=False), Ended("length", 1)]
    uncounted: Answer = [Said("b", reasoning=False), Ended("stop", None)]
    shown, _ = conversation(ScriptedVoice([cut, uncounted]), "1\n2\n")

    assert shown == (
        "a\n1 tokens in 2.0 s, 0.5 tokens/s, the first after 1.00 s, cut off at the limit\n"
        "b\n2.0 s, the first after 1.00 s\n"
    )


def test_an_interrupted_answer_stops_and_what_came_of_it_is_kept() -> None:
    voice = ScriptedVoice([[Said("I would", reasoning=False), KeyboardInterrupt()], said("fine")])
    shown, chat = conversation(voice, "tell me\ngo on\n")

    assert shown.startswith("I would\nstopped\nfine\n1 tokens in ")
    assert chat.history[1] == {"role": "assistant", "content": "I would"}
    assert voice.closed == 2


def test_a_failed_turn_is_told_and_forgotten() -> None:
    voice = ScriptedVoice([[Refused("the context holds 10 tokens: shorten it")], said("ok")])
    shown, chat = conversation(voice, "long\nshort\n")

    assert shown.startswith(
        "error: the context holds 10 tokens: shorten it\n/reset forgets the conversation\nok\n"
    )
    assert voice.bodies[1]["messages"] == [{"role": "user", "content": "short"}]
    assert len(chat.history) == 2


def test_an_answer_cannot_drive_the_terminal() -> None:
    shown, _ = conversation(ScriptedVoice([said("a\x1b[2J\rb\x9bc\td [red]e[/red] :smile:")]), "x\n")

    assert shown.startswith(
        "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    )
    assert "d [red]e[/red] :smile:\n" in shown
    assert printable("héllo\n\t世界") == "héllo\n\t世界"


class Keyboard(io.StringIO):
    """A standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_at_a_terminal_ctrl_c_drops_the_line_and_ctrl_d_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[object] = [KeyboardInterrupt(), "hello", EOFError()]

    def read(prompt: str) -> object:
        assert prompt == "> "
        key = typed.pop(0)
        if isinstance(key, BaseException):
            raise key
        return key

    monkeypatch.setattr("builtins.input", read)
    console = Console(file=io.StringIO())
    next_line = reader(Keyboard(), console)

    assert [next_line(), next_line()] == ["hello", None]
    assert "(Ctrl-D leaves)" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def harmony(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Tokens of a turn that thinks and answers."""

    def spoken(text: str) -> list[int]:
        encode = vocabulary.encode
        thought = [CHANNEL, *encode("analysis"), MESSAGE, *encode("think"), END]
        answer = [START, *encode("assistant"), CHANNEL, *encode("final"), MESSAGE, *encode(text), RETURN]
        return [*thought, *answer]

    return spoken


def body(text: str, **options: Any) -> dict[str, Any]:
    """A chat request of one message."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **options}


def voice_over(engine: Engine, vocabulary: Vocabulary) -> EngineVoice:
    """The engine's voice on a certain day."""
    return EngineVoice(engine, vocabulary, Replay(vocabulary), lambda: date(2025, 8, 5))


def test_the_engine_is_prompted_in_harmony_and_heard_in_pieces(
    vocabulary: Vocabulary, harmony: Callable[[str], list[int]]
) -> None:
    runner = ToldRunner([harmony("Hello there")])
    with told_engine(runner) as engine:
        pieces = list(voice_over(engine, vocabulary).answer(body("Hi", reasoning_effort="low")))

    prompt = b"".join(vocabulary.token_bytes(token) for token in runner.prompts[0]).decode()
    assert pieces == [
        Said("think", reasoning=True),
        Said("Hello", reasoning=False),
        Said(" there", reasoning=False),
        Ended("stop", len(runner.answers[0])),
    ]
    assert "Current date: 2025-08-05" in prompt
    assert "Reasoning: low" in prompt
    assert prompt.endswith("<|start|>user<|message|>Hi<|end|><|start|>assistant")


def test_a_conversation_goes_on_from_the_tokens_that_were_sampled(vocabulary: Vocabulary) -> None:
    opening = [CHANNEL, *vocabulary.encode("final"), MESSAGE]
    spelled = [*opening, *(token for letter in "Hello" for token in vocabulary.encode(letter)), RETURN]
    runner = ToldRunner([spelled])
    with told_engine(runner) as engine:
        chat = Chat(voice_over(engine, vocabulary), "m", Console(file=io.StringIO()))
        chat.turn("Hi")
        chat.turn("Again")
    first, second = runner.prompts

    assert second[: len(first) + len(spelled)] == [*first, *spelled[:-1], END]


def test_the_longest_answer_is_a_bound_and_the_context_is_another(
    vocabulary: Vocabulary, harmony: Callable[[str], list[int]]
) -> None:
    with told_engine(ToldRunner([harmony("one two three four")]), max_context_tokens=100) as engine:
        voice = voice_over(engine, vocabulary)
        short = list(voice.answer(body("Hi", max_completion_tokens=12)))
        long = list(voice.answer(body("Hi", max_completion_tokens=4000)))

    assert short[-1] == Ended("length", 12)
    assert long[-1] == Ended("stop", len(harmony("one two three four")))


def test_an_answer_that_is_closed_early_leaves_the_engine_free(
    vocabulary: Vocabulary, harmony: Callable[[str], list[int]]
) -> None:
    with told_engine(ToldRunner([harmony("one two " * 100)])) as engine:
        voice = voice_over(engine, vocabulary)
        pieces = voice.answer(body("Hi"))
        first = next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        load = engine.load()

    assert first == Said("think", reasoning=True)
    assert (load.running, load.waiting) == (0, 0)


def test_ctrl_c_while_the_model_computes_stops_the_answer_only(
    vocabulary: Vocabulary, harmony: Callable[[str], list[int]]
) -> None:
    console = Console(file=io.StringIO())

    def text() -> str:
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    def interrupt(steps: int) -> None:
        while steps == 20 and "one two" not in text():
            time.sleep(0.001)
        if steps == 20:
            os.kill(os.getpid(), signal.SIGINT)
        if steps > 20:
            time.sleep(0.002)  # the answer must not be over before the signal is seen

    # Whoever started these tests in the background of a shell has them ignore the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with told_engine(ToldRunner([harmony("one two " * 500)], interrupt)) as engine:
            Chat(voice_over(engine, vocabulary), "m", console).turn("count")
            load = engine.load()
    finally:
        signal.signal(signal.SIGINT, handler)

    shown = text()
    assert shown.startswith("think\none two")
    assert shown.endswith("\nstopped\n")
    assert (load.running, load.waiting) == (0, 0)


def test_the_engines_errors_are_the_voices(
    vocabulary: Vocabulary, harmony: Callable[[str], list[int]]
) -> None:
    with told_engine(ToldRunner([[-1]])) as engine, pytest.raises(Fault, match="no usable logits"):
        list(voice_over(engine, vocabulary).answer(body("Hi")))
    with told_engine(ToldRunner([harmony("x")])) as engine:
        voice = voice_over(engine, vocabulary)
        with pytest.raises(Refused):
            list(voice.answer(body("Hi", temperature=9)))
        with pytest.raises(Refused, match="the context holds 4096 tokens"):
            list(voice.answer(body("word " * 5000)))
        engine.submit = _busy  # type: ignore[method-assign]
        with pytest.raises(Busy):
            list(voice.answer(body("Hi")))


def _busy(*_: object, **__: object) -> Any:
    raise Busy("full", retry_after_s=1)


def test_the_demo_talks_in_a_real_terminal(demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local_engine", "chat", "--model", str(demo), "--temperature", "0"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, "--max-context-tokens", "2048"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TERM": "xterm", "XDG_CACHE_HOME": str(tmp_path)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""

    def until(pattern: str) -> None:
        nonlocal shown
        while not re.search(pattern, shown, re.DOTALL):
            assert select.select([ours], [], [], 60)[0], shown
            shown += os.read(ours, 4096).decode(errors="replace")

    try:
        until("> ")
        os.write(ours, b"hello\n")
        until("tokens/s.*> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "/help lists commands, Ctrl-D leaves" in shown
    assert "\x1b[2m" in shown
