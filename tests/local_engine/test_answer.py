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
    coalesced,
)
from local_engine.sampling import Logprobs
from local_engine.steps import Token
from local_engine.text import StopFinder, TokenLogprob
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
    parallel: bool = True,
    end: Literal["stop", "length"] = "stop",
    logprobs: bool = False,
) -> tuple[list[Piece], FinishReason, Assembler]:
    """Everything an assembler makes of a script, as the engine would feed it."""
    ids = (f"id{n}" for n in itertools.count())
    assembler = Assembler(vocabulary, stops, tools, lambda: next(ids), parallel=parallel)
    pieces: list[Piece] = []
    for n, token in enumerate(encode(text, vocabulary)):
        chosen = Logprobs(-float(n), ((token, -float(n)),)) if logprobs else None
        pieces += assembler.push(Token(0, token, chosen))
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
    assert assembler.tokens == encode(text, vocabulary)
    assert assembler.completion_tokens == len(assembler.tokens)


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


def test_several_calls_in_a_turn_are_numbered(vocabulary: Vocabulary) -> None:
    other = CALL.replace("functions.f", "functions.g")
    text = f'{CALL}{{"x": 1}}{NEXT}{other}{{"y": 2}}<|call|>'
    pieces, reason, assembler = run(text, vocabulary)

    assert coalesced(pieces) == [
        CallStart(0, "id0", "f"),
        CallArguments(0, '{"x": 1}'),
        CallStart(1, "id1", "g"),
        CallArguments(1, '{"y": 2}'),
    ]
    assert reason == "tool_calls"
    assert assembler.tokens == encode(text, vocabulary)


def test_without_parallel_calls_the_first_one_ends_the_answer(vocabulary: Vocabulary) -> None:
    text = f'{CALL}{{"x": 1}}{NEXT}{CALL}{{"y": 2}}<|call|>'
    pieces, reason, assembler = run(text, vocabulary, parallel=False)

    assert coalesced(pieces) == [CallStart(0, "id0", "f"), CallArguments(0, '{"x": 1}')]
    assert reason == "tool_calls"
    assert assembler.tokens == encode(f'{CALL}{{"x": 1}}<|end|>', vocabulary)


def test_a_call_that_was_the_only_one_wanted_is_whole_though_its_end_is_the_last_token_allowed(
    vocabulary: Vocabulary,
) -> None:
    ids = encode(f'{CALL}{{"x": 1}}<|end|>', vocabulary)
    reasons = []
    for parallel in (False, True):
        assembler = Assembler(vocabulary, (), True, lambda: "id", parallel=parallel)
        for token in ids:
            assembler.push(Token(0, token, None))
        reasons.append(assembler.finish("length")[1])

    assert reasons == ["tool_calls", "length"]


def test_a_stop_string_cuts_the_arguments_of_a_call_and_ends_the_answer(vocabulary: Vocabulary) -> None:
    text = f'<|channel|>analysis<|message|>a stop b{NEXT}{CALL}{{"stop": 1}}<|call|>'
    pieces, reason, _ = run(text, vocabulary, stops=("stop",))

    assert joined(pieces, ReasoningDelta) == "a stop b"
    assert joined(pieces, CallArguments) == '{"'
    assert reason == "stop"


def test_a_stop_string_is_not_made_up_of_two_messages(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>commentary<|message|>on{NEXT}{FINAL}e<|return|>"

    assert joined(run(text, vocabulary, stops=("one",))[0], ContentDelta) == "on\n\ne"


@pytest.mark.parametrize("character", ["é", "☃", "𓂀", "👩🏽‍🚀"])
def test_a_character_of_several_tokens_is_shown_whole_or_not_at_all(
    vocabulary: Vocabulary, character: str
) -> None:
    whole, _, _ = run(f"{FINAL}a{character}<|return|>", vocabulary)
    assert joined(whole, ContentDelta) == f"a{character}"

    tokens = encode(f"{FINAL}a{character}", vocabulary)
    for cut in range(len(tokens)):
        assembler = Assembler(vocabulary, (), True, str)
        pieces = [piece for token in tokens[:cut] for piece in assembler.push(Token(0, token, None))]
        pieces += assembler.finish("length")[0]

        assert f"a{character}".startswith(joined(pieces, ContentDelta))


def test_what_comes_behind_the_end_counts_for_nothing(vocabulary: Vocabulary) -> None:
    assembler = Assembler(vocabulary, ("b",), True, str)
    pieces = [
        piece
        for token in encode(f"{FINAL}a b c d", vocabulary)
        for piece in assembler.push(Token(0, token, None))
    ]

    assert joined(pieces, ContentDelta) == "a "
    assert assembler.tokens == encode(f"{FINAL}a b", vocabulary)
    assert assembler.finish("length") == ([], "stop")


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


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.sampled_from("ab é☃👩🏽‍🚀\n"), max_size=12),
    stops=st.lists(st.text(st.sampled_from("ab é☃\n"), min_size=1, max_size=3), max_size=2),
)
def test_a_client_sees_the_text_before_the_first_stop_growing_and_never_anything_else(
    vocabulary: Vocabulary, text: str, stops: list[str]
) -> None:
    pieces, reason, _ = run(f"{FINAL}{text}<|return|>", vocabulary, stops=tuple(stops))
    ends = [text.find(stop) for stop in stops if stop in text]

    assert joined(pieces, ContentDelta) == (text[: min(ends)] if ends else text)
    assert all(piece.text for piece in pieces if isinstance(piece, ContentDelta))
    assert reason == "stop"


def test_logprobs_are_those_of_the_content_tokens_that_are_shown(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>analysis<|message|>no{NEXT}{FINAL}one two three<|return|>"
    pieces, _, _ = run(text, vocabulary, logprobs=True, stops=("three",))
    found = [one for piece in pieces if isinstance(piece, ContentDelta) for one in piece.logprobs]
    first = len(encode(f"<|channel|>analysis<|message|>no{NEXT}{FINAL}", vocabulary))

    # " three" begins with a blank before the stop string, so it is shown in part and counted.
    assert [one.data for one in found] == [b"one", b" two", b" three"]
    assert [one.logprob for one in found] == [-float(first + n) for n in range(3)]
    assert found[0].top == ((b"one", -float(first)),)


def test_logprobs_of_arguments_stand_where_their_tokens_came(vocabulary: Vocabulary) -> None:
    text = f"<|channel|>commentary<|message|>Wait.{NEXT}{CALL}{{}}<|call|>"
    pieces, _, _ = run(text, vocabulary, logprobs=True)
    found = [
        (type(p), one.data)
        for p in pieces
        if not isinstance(p, ReasoningDelta | CallStart)
        for one in p.logprobs
    ]

    assert found == [(ContentDelta, b"Wait"), (ContentDelta, b"."), (CallArguments, b"{}")]


def test_neighbours_of_one_kind_become_one_piece() -> None:
    one, two = (TokenLogprob(data, -1.0, (), 0) for data in (b"1", b"2"))
    pieces: list[Piece] = [
        ReasoningDelta("a"),
        ReasoningDelta("b"),
        ContentDelta("c", (one,)),
        ContentDelta("d", (two,)),
        CallStart(0, "id0", "f"),
        CallArguments(0, "e", (one,)),
        CallArguments(0, "f", (two,)),
        CallStart(1, "id1", "f"),
        CallArguments(1, "g"),
    ]

    assert coalesced(pieces) == [
        ReasoningDelta("ab"),
        ContentDelta("cd", (one, two)),
        CallStart(0, "id0", "f"),
        CallArguments(0, "ef", (one, two)),
        CallStart(1, "id1", "f"),
        CallArguments(1, "g"),
    ]
