"""A sampled turn is read strictly: whole and as it was, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_engine.harmony.parse import Event, HarmonyParser, MessageStart, TextDelta
from local_engine.harmony.tokens import NAMES, VOCABULARY_SIZE
from local_engine.harmony.turn import read_turn
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import encode

HEADERS = {
    "<|channel|>analysis": ("analysis", None, None),
    "<|channel|>commentary": ("commentary", None, None),
    "<|channel|>final": ("final", None, None),
    "<|channel|>final <|constrain|>json": ("final", None, "json"),
    "<|channel|>commentary to=functions.f <|constrain|>json": ("commentary", "functions.f", "json"),
    "<|channel|>commentary to=functions.g.h-1": ("commentary", "functions.g.h-1", None),
    " to=functions.f<|channel|>commentary <|constrain|>json": ("commentary", "functions.f", "json"),
    " to=functions.f<|channel|>commentary<|constrain|>json": ("commentary", "functions.f", "json"),
}
THOUGHT, SAID, FINAL, JSON, CALL, OTHER, LIBRARY_CALL, TIGHT_CALL = HEADERS

GOOD = {
    "final": [FINAL],
    "reasoning, final": [THOUGHT, FINAL],
    "json": [THOUGHT, JSON],
    "much said": [THOUGHT, SAID, THOUGHT, THOUGHT, SAID, FINAL],
    "only a preamble": [THOUGHT, SAID],
    "call": [CALL],
    "reasoning, preamble, calls": [THOUGHT, SAID, THOUGHT, CALL, THOUGHT, OTHER, LIBRARY_CALL, TIGHT_CALL],
}


@pytest.mark.parametrize("case", GOOD)
def test_a_well_formed_turn_is_its_messages_with_their_tokens(case: str, vocabulary: Vocabulary) -> None:
    headers = GOOD[case]
    texts = [f"text {n} é <|end|>" for n in range(len(headers))]
    ending = NAMES[200012 if "to=" in headers[-1] else 200002]
    tokens = encode("<|start|>assistant", vocabulary)
    for n, (header, text) in enumerate(zip(headers, texts, strict=True)):
        tokens += encode(
            f"<|start|>assistant{header}<|message|>" if n else f"{header}<|message|>", vocabulary
        )
        tokens += vocabulary.encode(text)
        tokens += encode("<|end|>" if n + 1 < len(headers) else ending, vocabulary)
    messages = read_turn(tokens[2:], vocabulary)

    assert messages is not None
    assert [(m.role, m.channel, m.recipient, m.constrain, m.text) for m in messages] == [
        ("assistant", *HEADERS[header], text) for header, text in zip(headers, texts, strict=True)
    ]
    assert [token for message in messages for token in message.tokens or ()] == tokens


NEXT = "<|end|><|start|>assistant"
A, C, F, K = (
    *("<|channel|>analysis<|message|>", "<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
    "<|channel|>commentary to=functions.f<|message|>",
)

BAD = {
    "nothing": "",
    "no end": F + "hi",
    "an end that is no end of a turn": F + "hi<|end|>",
    "endoftext": F + "hi<|endoftext|>",
    "something behind the end": F + "hi<|return|>x",
    "a turn behind the turn": F + "hi<|return|><|start|>assistant" + F + "hi<|return|>",
    "only reasoning": A + "hm<|return|>",
    "two final messages": F + "a" + NEXT + F + "b<|return|>",
    "a final message before a call": F + "a" + NEXT + K + "{}<|call|>",
    "a preamble behind a call": K + "{}" + NEXT + C + "a" + NEXT + K + "{}<|call|>",
    "an answer behind a call": K + "{}" + NEXT + F + "b<|return|>",
    "reasoning behind the last call": K + "{}" + NEXT + A + "b<|call|>",
    "a call that returns": K + "{}<|return|>",
    "a call that goes on": K + "{}<|call|><|start|>assistant" + K + "{}<|call|>",
    "an answer that calls": F + "hi<|call|>",
    "a call in the analysis channel": "<|channel|>analysis to=functions.f<|message|>{}<|call|>",
    "a call in the final channel": "<|channel|>final to=functions.f<|message|>{}<|call|>",
    "a built-in tool": "<|channel|>commentary to=python<|message|>{}<|call|>",
    "a recipient with a blank": "<|channel|>commentary to=functions.web browsing<|message|>{}<|call|>",
    "two recipients": " to=functions.f" + K + "{}<|call|>",
    "a plain word for the format": "<|channel|>commentary to=functions.f json<|message|>{}<|call|>",
    "another format": "<|channel|>commentary to=functions.f <|constrain|>code<|message|>{}<|call|>",
    "a format with a blank": "<|channel|>final <|constrain|> json<|message|>{}<|return|>",
    "no format": "<|channel|>final <|constrain|><|message|>{}<|return|>",
    "two formats": "<|channel|>final <|constrain|>json<|constrain|>json<|message|>{}<|return|>",
    "a blank behind the channel": "<|channel|>final <|message|>hi<|return|>",
    "no channel": "<|message|>hi<|return|>",
    "two channels": "<|channel|>final" + F + "hi<|return|>",
    "an unknown channel": "<|channel|>??<|message|>hi<|return|>",
    "dashes": "<|channel|>––commentary<|message|>hi<|return|>",
    "words before the channel": " hi" + F + "hi<|return|>",
    "no message": "<|channel|>final hello<|return|>",
    "two messages": F + "hi<|message|>there<|return|>",
    "a channel in the text": A + "hm" + F + "hi<|return|>",
    "a start in the text": A + "hm<|start|>assistant" + F + "hi<|return|>",
    "no start": A + "hm<|end|>" + F + "hi<|return|>",
    "no role": A + "hm<|end|><|start|>" + F + "hi<|return|>",
    "another role": A + "hm<|end|><|start|>user" + F + "hi<|return|>",
    "words behind an end": A + "hm<|end|> <|start|>assistant" + F + "hi<|return|>",
}


@pytest.mark.parametrize("case", BAD)
def test_a_turn_that_strays_from_the_format_is_not_read(case: str, vocabulary: Vocabulary) -> None:
    assert read_turn(encode(BAD[case], vocabulary), vocabulary) is None


def test_text_that_is_no_utf8_is_not_read(vocabulary: Vocabulary) -> None:
    head, end = encode("<|channel|>final<|message|>", vocabulary), encode("<|return|>", vocabulary)
    halves = [
        next(t for t in range(300) if vocabulary.token_bytes(t) == bytes([byte])) for byte in "é".encode()
    ]

    assert read_turn([*head, *halves, *end], vocabulary) is not None
    assert read_turn([*head, *halves[:1], *end], vocabulary) is None


PIECES = st.sampled_from(
    [
        *[*NAMES.values(), *HEADERS, "assistant", "<|start|>assistant", NEXT, "<|reserved_200000|>"],
        *[
            " to=functions.f",
            "final",
            "json",
            "hi",
            " ",
            F + "hi<|return|>",
            A + "hm" + NEXT,
            K + "{}<|call|>",
        ],
    ]
)


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(PIECES, max_size=12), noise=st.lists(st.integers(0, VOCABULARY_SIZE - 1), max_size=2))
def test_what_is_read_is_what_the_tolerant_parser_reads(
    vocabulary: Vocabulary, pieces: list[str], noise: list[int]
) -> None:
    tokens = [*noise, *encode("".join(pieces), vocabulary)]
    messages = read_turn(tokens, vocabulary)
    parser = HarmonyParser(vocabulary)
    events: list[Event] = [event for token in tokens for event in parser.push(token)]

    if messages is not None:
        assert parser.done
        assert [(m.channel, m.recipient, m.constrain) for m in messages] == [
            (e.header.channel, e.header.recipient, e.header.content_type)
            for e in events
            if isinstance(e, MessageStart)
        ]
        assert [m.text for m in messages] == [
            "".join(e.text for e in events if isinstance(e, TextDelta) and e.index == n)
            for n in range(len(messages))
        ]
