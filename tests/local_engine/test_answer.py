"""Sampled tokens become reasoning, content and tool calls, and a stop string never leaks."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_engine.answer import (
    Assembler,
    CallArguments,
    CallStart,
    ContentDelta,
    FinishReason,
    Piece,
    ReasoningDelta,
    StopFinder,
)
from local_engine.engine import Token
from local_engine.sampling import Logprobs
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import encode

FINAL = "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"


def run(
    text: str,
    vocabulary: Vocabulary,
    *,
    stops: tuple[str, ...] = (),
    tools: bool = True,
    end: Literal["stop", "length"] = "stop",
    logprobs: bool = False,
) -> tuple[list[Piece], FinishReason, Assembler]:
    """Everything an assembler makes of a script, as the engine would feed it."""
    ids = (f"id{n}" for n in itertools.count())
    assembler = Assembler(vocabulary, stops, tools, lambda: next(ids))
    pieces: list[Piece] = []
    for n, token in enumerate(encode(text, vocabulary)):
        chosen = Logprobs(-float(n), ((token, -float(n)),)) if logprobs else None
        pieces += assembler.push(Token(token, chosen))
        if assembler.done:
            last, reason = assembler.finish("stop")
            break
    else:
        last, reason = assembler.finish(end)
    return [*pieces, *last], reason, assembler


def joined(pieces: list[Piece], kind: type) -> str:
    """The text of all pieces of a kind."""
    return "".join(piece.text for piece in pieces if isinstance(piece, kind))  # type: ignore[union-attr]


def test_analysis_is_reasoning_and_final_is_content(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>analysis<|message|>I think so{NEXT}{FINAL}Yes, it is.<|return|>"
    pieces, reason, assembler = run(text, vocabulary)

    assert joined(pieces, ReasoningDelta) == "I think so"
    assert joined(pieces, ContentDelta) == "Yes, it is."
    assert reason == "stop"
    assert assembler.reasoning_tokens == len(vocabulary.encode("I think so"))
    assert assembler.completion_tokens == len(encode(text, vocabulary))


def test_a_preamble_is_content_and_a_call_is_a_tool_call(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>commentary<|message|>Looking.{NEXT}{CALL}" + '{"x": 1}<|call|>'
    pieces, reason, _ = run(text, vocabulary)

    assert joined(pieces, ContentDelta) == "Looking."
    assert [piece for piece in pieces if isinstance(piece, CallStart)] == [CallStart(0, "id0", "f")]
    assert joined(pieces, CallArguments) == '{"x": 1}'
    assert reason == "tool_calls"


def test_a_preamble_and_a_final_message_are_set_apart(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>commentary<|message|>Looking.{NEXT}{FINAL}Done.<|return|>"

    assert joined(run(text, vocabulary)[0], ContentDelta) == "Looking.\n\nDone."
    empty = f"<|channel|>commentary<|message|>Looking.{NEXT}{FINAL}<|return|>"
    assert joined(run(empty, vocabulary)[0], ContentDelta) == "Looking."


def test_a_call_that_nobody_offered_is_reasoning(vocabulary: Vocabulary) -> None:
    pieces, reason, _ = run(f"{CALL}{{}}<|call|>", vocabulary, tools=False)

    assert pieces == [ReasoningDelta("{}")]
    assert reason == "stop"


def test_a_cut_answer_says_length_even_inside_a_call(vocabulary: Vocabulary) -> None:
    assert run(f"{FINAL}half a", vocabulary, end="length")[1] == "length"
    assert run(f"{CALL}{{", vocabulary, end="length")[1] == "length"


@pytest.mark.parametrize(
    ("stops", "shown", "reason"),
    [
        (("nothing",), "one two three", "stop"),
        (("two",), "one ", "stop"),
        (("e t", "two"), "one two thre"[:2], "stop"),
        (("three!", "threes"), "one two three", "stop"),
        (("one",), "", "stop"),
    ],
)
def test_content_ends_before_the_first_stop_string(
    vocabulary: Vocabulary, stops: tuple[str, ...], shown: str, reason: str
) -> None:
    pieces, found, _ = run(f"{FINAL}one two three<|return|>", vocabulary, stops=stops)

    assert (joined(pieces, ContentDelta), found) == (shown, reason)


def test_stop_strings_do_not_touch_reasoning_or_arguments(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>analysis<|message|>a stop b{NEXT}{CALL}" + '{"stop": 1}<|call|>'
    pieces, reason, _ = run(text, vocabulary, stops=("stop",))

    assert joined(pieces, ReasoningDelta) == "a stop b"
    assert joined(pieces, CallArguments) == '{"stop": 1}'
    assert reason == "tool_calls"


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.text("ab", max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_however_text_is_cut_up_exactly_what_precedes_the_first_stop_is_shown(
    chunks: list[str], stops: list[str]
) -> None:
    finder, shown = StopFinder(stops), ""
    whole = ""
    for chunk in chunks:
        whole += chunk
        shown += finder.push(chunk)
        hits = [whole.find(stop) for stop in stops if stop in whole]
        assert finder.found == bool(hits)
        if hits:
            break
        # What is held back is never more than could still become a stop string.
        assert whole.startswith(shown)
        assert whole == shown or any(stop.startswith(whole[len(shown) :]) for stop in stops)
    if not finder.found:
        shown += finder.flush()

    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert shown == (whole[: min(ends)] if ends else whole)


def test_logprobs_are_those_of_the_content_tokens_that_are_shown(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>analysis<|message|>no{NEXT}{FINAL}one two three<|return|>"
    pieces, _, _ = run(text, vocabulary, logprobs=True, stops=("three",))
    found = [one for piece in pieces if isinstance(piece, ContentDelta) for one in piece.logprobs]
    first = len(encode(f"<|channel|>analysis<|message|>no{NEXT}{FINAL}", vocabulary))

    # " three" begins with a blank before the stop string, so it is shown in part and counted.
    assert [one.data for one in found] == [b"one", b" two", b" three"]
    assert [one.logprob for one in found] == [-float(first + n) for n in range(3)]
    assert found[0].top == ((b"one", -float(first)),)
