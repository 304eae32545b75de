"""The parser reads what models emit: the format, its known variations, and any nonsense without raising."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import HarmonyEncoding, Role

from local_engine.harmony.parse import (
    MAX_HEADER_TOKENS,
    Event,
    HarmonyParser,
    Header,
    MessageEnd,
    MessageStart,
    TextDelta,
)
from local_engine.harmony.tokens import NAMES, STOP_TOKENS
from local_engine.vocabulary import Vocabulary

SPECIALS = {name: token for token, name in NAMES.items()}


@dataclass(frozen=True)
class Read:
    """One message as the events told it."""

    channel: str
    text: str
    recipient: str | None = None
    content_type: str | None = None
    called: bool = False


def encode(text: str, vocabulary: Vocabulary) -> list[int]:
    """Tokens of text in which special tokens are spelled out."""
    parts = re.split(r"(<\|\w+\|>)", text)
    return [
        token
        for part in parts
        for token in ([SPECIALS[part]] if part in SPECIALS else vocabulary.encode(part))
    ]


def read(tokens: list[int], vocabulary: Vocabulary) -> list[Read]:
    """Feeds the tokens and folds the events into messages, checking their order on the way."""
    parser = HarmonyParser(vocabulary)
    events: list[Event] = [event for token in tokens for event in parser.push(token)]
    events += parser.finish()
    messages: list[tuple[Header, list[str], list[bool]]] = []
    for event in events:
        match event:
            case MessageStart(index=index, header=header):
                assert index == len(messages)
                messages.append((header, [], []))
            case TextDelta(index=index, text=text):
                assert index == len(messages) - 1
                assert text
                messages[-1][1].append(text)
            case MessageEnd(index=index, called=called):
                assert index == len(messages) - 1
                messages[-1][2].append(called)
    assert all(len(ends) == 1 for _, _, ends in messages)
    assert parser.done
    return [
        Read(header.channel, "".join(texts), header.recipient, header.content_type, ends[0])
        for header, texts, ends in messages
    ]


CALL = Read("commentary", "{}", "functions.f", "json", called=True)

CASES = {
    "final only": ("<|channel|>final<|message|>hi<|return|>", [Read("final", "hi")]),
    "analysis, then final": (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>hi<|return|>",
        [Read("analysis", "hm"), Read("final", "hi")],
    ),
    "a call as the docs write it": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [CALL],
    ),
    "a call as the library writes it": (
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        [CALL],
    ),
    "a call without blanks": (
        "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>",
        [CALL],
    ),
    "a call with the format as a plain word": (
        "<|channel|>commentary to=functions.f json<|message|>{}<|call|>",
        [CALL],
    ),
    "a call on the analysis channel": (
        "<|channel|>analysis to=functions.f code<|message|>{}<|call|>",
        [Read("analysis", "{}", "functions.f", "code", called=True)],
    ),
    "a recipient and no channel": (
        " to=functions.f<|message|>{}<|call|>",
        [Read("commentary", "{}", "functions.f", None, called=True)],
    ),
    "a recipient with a blank in it": (
        "<|channel|>commentary to=functions.web browsing<|message|>{}<|call|>",
        [Read("commentary", "{}", "functions.web", None, called=True)],
    ),
    "a preamble": (
        "<|channel|>commentary<|message|>First I look.<|end|><|start|>assistant<|channel|>commentary "
        "to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [Read("commentary", "First I look."), CALL],
    ),
    "constrain on the final channel is no recipient": (
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>",
        [Read("final", "{}", None, "json")],
    ),
    "no header at all": ("<|message|>hi<|return|>", [Read("final", "hi")]),
    "dashes before the channel": ("<|channel|>––commentary<|message|>hi<|end|>", [Read("commentary", "hi")]),
    "question marks for a channel": ("<|channel|>??<|message|>hi<|return|>", [Read("final", "hi")]),
    "unknown words in the header": (
        "<|channel|>final nonsense here<|message|>hi<|end|>",
        [Read("final", "hi")],
    ),
    "a header that ends without its message": ("<|channel|>final hello<|return|>", [Read("final", " hello")]),
    "a header that ends with nothing to say": ("<|channel|>final<|return|>", []),
    "text without any header": ("just text<|return|>", [Read("final", "just text")]),
    "text that stops short": ("just text", [Read("final", "just text")]),
    "a channel inside content ends the message": (
        "<|channel|>analysis<|message|>hm<|channel|>final<|message|>hi<|return|>",
        [Read("analysis", "hm"), Read("final", "hi")],
    ),
    "a start inside content ends the message": (
        "<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final<|message|>hi<|return|>",
        [Read("analysis", "hm"), Read("final", "hi")],
    ),
    "a message without start": (
        "<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>hi<|return|>",
        [Read("analysis", "hm"), Read("final", "hi")],
    ),
    "junk after an end ends the turn": (
        "<|channel|>final<|message|>hi<|end|>commentary<|message|>no<|return|>",
        [Read("final", "hi")],
    ),
    "tokens after a call are not read": (
        "<|channel|>commentary to=functions.f json<|message|>{}<|call|>commentary<|message|>no",
        [CALL],
    ),
    "the model plays the user": (
        "<|channel|>final<|message|>hi<|end|><|start|>user<|message|>and now?<|end|>",
        [Read("final", "hi")],
    ),
    "the model plays the tool": (
        "<|channel|>final<|message|>hi<|end|><|start|>functions.f to=assistant<|message|>r<|end|>",
        [Read("final", "hi")],
    ),
    "cut in the middle": ("<|channel|>analysis<|message|>half a", [Read("analysis", "half a")]),
    "stray special tokens in content": (
        "<|channel|>final<|message|>a<|constrain|>b<|return|>",
        [Read("final", "ab")],
    ),
    "endoftext": ("<|channel|>final<|message|>hi<|endoftext|>", [Read("final", "hi")]),
}


@pytest.mark.parametrize("case", CASES)
def test_reading(case: str, vocabulary: Vocabulary) -> None:
    text, expected = CASES[case]

    assert read(encode(text, vocabulary), vocabulary) == expected


def test_a_header_that_runs_on_becomes_final_content_as_it_streams(vocabulary: Vocabulary) -> None:
    text = " word" * (MAX_HEADER_TOKENS + 5)
    parser = HarmonyParser(vocabulary)
    streamed = [parser.push(token) for token in vocabulary.encode(text)]

    assert streamed[:MAX_HEADER_TOKENS] == [[]] * MAX_HEADER_TOKENS
    opened, first = streamed[MAX_HEADER_TOKENS]
    assert opened == MessageStart(0, Header("final"))
    assert first == TextDelta(0, " word" * (MAX_HEADER_TOKENS + 1))
    assert streamed[MAX_HEADER_TOKENS + 1 :] == [[TextDelta(0, " word")]] * 4


def test_a_character_cut_by_the_bound_of_the_header_is_completed_by_the_next_token(
    vocabulary: Vocabulary,
) -> None:
    pieces = [token for byte in "é".encode() for token in [token_of(bytes([byte]), vocabulary)]]
    tokens = vocabulary.encode(" word" * MAX_HEADER_TOKENS) + pieces

    assert read(tokens, vocabulary) == [Read("final", " word" * MAX_HEADER_TOKENS + "é")]


def test_a_user_impersonated_at_length_ends_the_turn(vocabulary: Vocabulary) -> None:
    tail = " word" * (MAX_HEADER_TOKENS + 5)
    tokens = encode(f"<|channel|>final<|message|>hi<|end|><|start|>user{tail}", vocabulary)

    assert read(tokens, vocabulary) == [Read("final", "hi")]


def token_of(data: bytes, vocabulary: Vocabulary) -> int:
    """The token that stands for exactly these bytes."""
    return next(token for token in range(300) if vocabulary.token_bytes(token) == data)


def test_characters_split_over_tokens_arrive_whole(vocabulary: Vocabulary) -> None:
    data = "a€😀é".encode()
    head = encode("<|channel|>final<|message|>", vocabulary)
    parser = HarmonyParser(vocabulary)
    events = [
        event
        for token in [*head, *(token_of(bytes([b]), vocabulary) for b in data)]
        for event in parser.push(token)
    ]

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "€", "😀", "é"]


def test_an_incomplete_character_is_replaced_at_an_end_and_left_out_at_a_cut(vocabulary: Vocabulary) -> None:
    half = [*encode("<|channel|>final<|message|>a", vocabulary), token_of("é".encode()[:1], vocabulary)]

    assert read([*half, SPECIALS["<|return|>"]], vocabulary) == [Read("final", "a\ufffd")]
    assert read(half, vocabulary) == [Read("final", "a")]


WELL_FORMED = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "<|channel|>analysis",
                "<|channel|>final",
                "<|channel|>commentary",
                "<|channel|>commentary to=functions.f <|constrain|>json",
                " to=functions.f<|channel|>commentary <|constrain|>json",
                "<|channel|>analysis to=python code",
            ]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "<|" not in text),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(turn=WELL_FORMED)
def test_well_formed_turns_are_read_as_the_library_reads_them(
    library: HarmonyEncoding, vocabulary: Vocabulary, turn: list[tuple[str, str]]
) -> None:
    tokens = encode("<|start|>assistant".join(f"{h}<|message|>{t}<|end|>" for h, t in turn), vocabulary)
    theirs = [
        Read(
            str(message.channel),
            message.content[0].text,
            message.recipient,
            (message.content_type or "").removeprefix("<|constrain|>") or None,
        )
        for message in library.parse_messages_from_completion_tokens(tokens, Role.ASSISTANT)
    ]

    assert read(tokens, vocabulary) == theirs


CONTENT_TOKENS = st.lists(st.integers(0, 255) | st.integers(0, 199_997), max_size=12)


@settings(max_examples=200, deadline=None)
@given(tokens=CONTENT_TOKENS)
def test_any_bytes_are_decoded_as_the_library_decodes_them(
    library: HarmonyEncoding, vocabulary: Vocabulary, tokens: list[int]
) -> None:
    turn = [*encode("<|channel|>final<|message|>", vocabulary), *tokens, SPECIALS["<|end|>"]]
    theirs = library.parse_messages_from_completion_tokens(turn, Role.ASSISTANT)

    assert read(turn, vocabulary) == [Read("final", theirs[0].content[0].text)]


PIECES = st.sampled_from(
    [
        *SPECIALS,
        "assistant",
        "user",
        " to=functions.f",
        " to=",
        "analysis",
        "final",
        "json",
        " hi",
        "\n",
        "😀",
        "to=x y",
    ]
) | st.text(max_size=6).filter(lambda text: "<|" not in text)


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(PIECES, max_size=30), noise=st.lists(st.integers(0, 201_087), max_size=5))
def test_nonsense_never_raises_and_never_shows_a_special_token_or_half_a_character(
    vocabulary: Vocabulary, pieces: list[str], noise: list[int]
) -> None:
    tokens = [*encode("".join(p for p in pieces if p.isprintable()), vocabulary), *noise]
    messages = read(tokens, vocabulary)

    assert all(message.channel in ("analysis", "commentary", "final") for message in messages)
    assert not any(name in message.text for message in messages for name in SPECIALS)


@settings(max_examples=100, deadline=None)
@given(turn=WELL_FORMED, stop=st.sampled_from(sorted(STOP_TOKENS)), after=CONTENT_TOKENS)
def test_nothing_after_a_stop_token_changes_what_was_read(
    vocabulary: Vocabulary, turn: list[tuple[str, str]], stop: int, after: list[int]
) -> None:
    head, text = turn[0]
    tokens = [*encode(f"{head}<|message|>{text}", vocabulary), stop]

    assert read([*tokens, *after], vocabulary) == read(tokens, vocabulary)
