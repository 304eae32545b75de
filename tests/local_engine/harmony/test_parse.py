"""The parser reads what models emit: the format, its known variations, and any nonsense without raising."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import Author, HarmonyEncoding, Role, StreamableParser
from openai_harmony import Message as LibraryMessage

from local_engine.harmony.parse import (
    MAX_HEADER_TOKENS,
    Event,
    HarmonyParser,
    Header,
    MessageEnd,
    MessageStart,
    TextDelta,
)
from local_engine.harmony.tokens import CHANNEL, FIRST_SPECIAL, NAMES, STOP_TOKENS, VOCABULARY_SIZE
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import encode

SPECIALS = {name: token for token, name in NAMES.items()}


@dataclass(frozen=True)
class Read:
    """One message as the events told it."""

    channel: str
    text: str
    recipient: str | None = None
    content_type: str | None = None
    called: bool = False


def read(tokens: list[int], vocabulary: Vocabulary) -> list[Read]:
    """Feeds the tokens and folds the events into messages, checking their order on the way."""
    parser = HarmonyParser(vocabulary)
    events: list[Event] = [event for token in tokens for event in parser.push(token)]
    events += parser.finish()
    assert parser.finish() == []
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
    "reasoning without its message": (
        "<|channel|>analysis We think<|end|><|start|>assistant<|channel|>final<|message|>hi<|return|>",
        [Read("analysis", " We think"), Read("final", "hi")],
    ),
    "reasoning without its message that stops short": (
        "<|channel|>analysis We think",
        [Read("analysis", " We think")],
    ),
    "a call without its message": (
        '<|channel|>commentary to=functions.f <|constrain|>json{"x":1}<|call|>',
        [Read("final", ' {"x":1}', called=True)],
    ),
    "a start without its role": (
        "<|channel|>analysis<|message|>hm<|end|><|start|><|channel|>final<|message|>hi<|return|>",
        [Read("analysis", "hm"), Read("final", "hi")],
    ),
    "a channel that runs into the recipient": (
        "<|channel|>commentaryto=functions.f<|message|>{}<|call|>",
        [Read("commentary", "{}", "functions.f", None, called=True)],
    ),
    "a channel that runs into a word": (
        "<|channel|>analysiscode<|message|>hm<|end|>",
        [Read("analysis", "hm")],
    ),
    "the plain word for the format on the final channel": (
        "<|channel|>final json<|message|>{}<|return|>",
        [Read("final", "{}", None, "json")],
    ),
    "a format with a blank before it": (
        "<|channel|>commentary to=functions.f <|constrain|> json<|message|>{}<|call|>",
        [CALL],
    ),
    "commentary to nobody that ends the turn": (
        "<|channel|>commentary<|message|>hi<|return|>",
        [Read("commentary", "hi")],
    ),
    "a recipient on the final channel": (
        "<|channel|>final to=functions.f<|message|>hi<|call|>",
        [Read("final", "hi", "functions.f", None, called=True)],
    ),
    "no recipient in a word": (
        "<|channel|>final<|message|>to=functions.f<|return|>",
        [Read("final", "to=functions.f")],
    ),
    "several calls": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.g <|constrain|>json<|message|>{}<|call|>",
        [
            Read("commentary", "{}", "functions.f", "json"),
            Read("commentary", "{}", "functions.g", "json", called=True),
        ],
    ),
    "cut in a channel": ("<|channel|>comment", []),
    "cut in a recipient": ("<|channel|>commentary to=func", []),
    "cut in a recipient before the channel": (" to=", []),
    "cut in a format": ("<|channel|>commentary to=functions.f <|constrain|>js", []),
    "cut in a role": ("<|channel|>analysis<|message|>hm<|end|><|start|>assist", [Read("analysis", "hm")]),
    "cut in the header of another role": (
        "<|channel|>final<|message|>hi<|end|><|start|>functions.f to=assistant",
        [Read("final", "hi")],
    ),
    "only a start": ("<|start|>", []),
    "only ends": ("<|end|><|end|>", []),
    "nothing": ("", []),
    "another role and nothing more": (
        "<|channel|>final<|message|>hi<|end|><|start|>user<|end|>",
        [Read("final", "hi")],
    ),
    "another role cut off": ("<|channel|>final<|message|>hi<|end|><|start|>user", [Read("final", "hi")]),
    "the model plays a built-in tool": (
        "<|channel|>final<|message|>hi<|end|><|start|>browser.search to=assistant<|message|>no<|end|>",
        [Read("final", "hi")],
    ),
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
    "commentary behind a call, where a start is due": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>commentary to=f",
        [CALL],
    ),
    "commentary behind an end, where a start is due": (
        "<|channel|>analysis<|message|>hm<|end|>commentary to=functions.f<|message|>{}<|call|>",
        [Read("analysis", "hm")],
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


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["<|end|>", "😀👩‍👩‍👧é漢字", " to=functions.f", '{"x":1}']
)
HEADERS = st.sampled_from(
    [
        ("analysis", None, None),
        ("final", None, None),
        ("commentary", None, None),
        ("commentary", "functions.f", "<|constrain|>json"),
        ("commentary", "functions.get_weather-2", "<|constrain|>json"),
        ("analysis", "python", "code"),
    ]
)
TURNS = st.lists(st.tuples(HEADERS, TEXT, st.booleans(), st.booleans()), min_size=1, max_size=4)
Turn = list[tuple[tuple[str, str | None, str | None], str, bool, bool]]


def in_bytes(tokens: list[int], vocabulary: Vocabulary) -> list[int]:
    """The same text in tokens of one byte each, as a model may well sample it."""
    singles = {vocabulary.token_bytes(token): token for token in range(256)}
    return [singles[bytes([byte])] for token in tokens for byte in vocabulary.token_bytes(token)]


def sampled(turn: Turn, library: HarmonyEncoding, vocabulary: Vocabulary) -> list[int]:
    """The turn as the library renders it, behind `<|start|>assistant`, ended by its last message only.

    Of each message the flags say whether its recipient stands behind the channel, as models write it, and
    whether its text comes byte by byte.
    """
    tokens: list[int] = []
    for (channel, recipient, kind), text, behind, bytewise in turn:
        message = LibraryMessage.from_author_and_content(Author(role=Role.ASSISTANT), text).with_channel(
            channel
        )
        message = message if recipient is None else message.with_recipient(recipient)
        message = message if kind is None else message.with_content_type(kind)
        rendered = list(library.render(message))
        if recipient is not None and behind:
            to, at = vocabulary.encode(f" to={recipient}"), rendered.index(CHANNEL)
            word = at + 1 + len(vocabulary.encode(channel))
            assert rendered[at - len(to) : at] == to
            rendered[at - len(to) : word] = [*rendered[at:word], *to]
        content = rendered.index(SPECIALS["<|message|>"]) + 1
        if bytewise:
            rendered[content:-1] = in_bytes(rendered[content:-1], vocabulary)
        tokens += [*rendered[:-1], SPECIALS["<|end|>"]]
    tokens[-1] = SPECIALS["<|return|>" if turn[-1][0][1] is None else "<|call|>"]
    return tokens[2:]


@settings(max_examples=200, deadline=None)
@given(turn=TURNS)
def test_each_token_of_a_well_formed_turn_is_read_as_the_library_reads_it(
    library: HarmonyEncoding, vocabulary: Vocabulary, turn: Turn
) -> None:
    theirs, ours = StreamableParser(library, Role.ASSISTANT), HarmonyParser(vocabulary)
    messages = 0
    tokens = sampled(turn, library, vocabulary)
    for token in tokens:
        events = ours.push(token)
        theirs.process(token)

        delta = theirs.last_content_delta
        assert [e.text for e in events if isinstance(e, TextDelta)] == ([delta] if delta else [])
        header = None
        if theirs.state_data["state"] == "Content":
            kind = (theirs.current_content_type or "").removeprefix("<|constrain|>")
            header = Header(str(theirs.current_channel), theirs.current_recipient, kind or None)
        assert ours.header == header
        messages += sum(isinstance(event, MessageEnd) for event in events)
        assert messages == len(theirs.messages)
    assert messages == len(turn)
    assert ours.done
    at_once = library.parse_messages_from_completion_tokens(tokens, Role.ASSISTANT)
    assert read(tokens, vocabulary) == [
        Read(
            str(message.channel),
            message.content[0].text,
            message.recipient,
            (message.content_type or "").removeprefix("<|constrain|>") or None,
            called=tokens[-1] == SPECIALS["<|call|>"] and message is at_once[-1],
        )
        for message in at_once
    ]


@settings(max_examples=200, deadline=None)
@given(turn=TURNS, data=st.data())
def test_a_turn_cut_anywhere_is_what_was_whole_of_it(
    library: HarmonyEncoding, vocabulary: Vocabulary, turn: Turn, data: st.DataObject
) -> None:
    tokens = sampled(turn, library, vocabulary)
    cut = data.draw(st.integers(0, len(tokens)))
    whole, part = read(tokens, vocabulary), read(tokens[:cut], vocabulary)

    assert len(part) <= len(whole)
    assert part[:-1] == whole[: len(part[:-1])]
    for short, full in zip(part[-1:], whole[len(part) - 1 :], strict=False):
        assert (short.channel, short.recipient, short.content_type) == (
            full.channel,
            full.recipient,
            full.content_type,
        )
        assert full.text.startswith(short.text)


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
        *[*SPECIALS, "<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>analysis<|message|>"],
        *["assistant", "user", " to=functions.f", " to=", "to=x y", "analysis", "final", "comment", "json"],
        *[" hi", "\n", " ", "😀", "––", "??"],
    ]
) | st.text(max_size=6).filter(lambda text: "<|" not in text and text.isprintable())
NOISE = st.one_of(
    st.integers(0, 255),
    st.integers(0, FIRST_SPECIAL - 1),
    st.integers(FIRST_SPECIAL, VOCABULARY_SIZE - 1),
    st.sampled_from(sorted(NAMES)),
)


@st.composite
def mutated(draw: st.DrawFn, tokens: list[int]) -> list[int]:
    """The tokens with some deleted, inserted, swapped, repeated or replaced."""
    tokens = list(tokens)
    for _ in range(draw(st.integers(1, 6))):
        at, to = draw(st.integers(0, len(tokens))), draw(st.integers(0, len(tokens)))
        match draw(st.sampled_from(["delete", "insert", "swap", "repeat", "replace"])):
            case "delete":
                del tokens[at : at + 1]
            case "insert":
                tokens.insert(at, draw(NOISE))
            case "swap" if at < len(tokens) and to < len(tokens):
                tokens[at], tokens[to] = tokens[to], tokens[at]
            case "repeat":
                tokens[at:at] = tokens[min(at, to) : max(at, to)][:50]
            case _:
                tokens[at : at + 1] = [draw(NOISE)]
    return tokens


def check_sane(tokens: list[int], vocabulary: Vocabulary) -> None:
    """What holds whatever the model emits; `read` checks the order of the events."""
    messages = read(tokens, vocabulary)
    spoken = iter(b"".join(vocabulary.token_bytes(token) for token in tokens if token < FIRST_SPECIAL))
    shown = "".join(message.text for message in messages).replace("\ufffd", "").encode()

    assert all(message.channel in ("analysis", "commentary", "final") for message in messages)
    assert all(byte in spoken for byte in shown), "text that no token stands for"


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(PIECES, max_size=30), noise=st.lists(NOISE, max_size=5))
def test_nonsense_never_raises_and_shows_nothing_that_was_not_said(
    vocabulary: Vocabulary, pieces: list[str], noise: list[int]
) -> None:
    check_sane([*encode("".join(pieces), vocabulary), *noise], vocabulary)


@settings(max_examples=400, deadline=None)
@given(turn=TURNS, data=st.data())
def test_a_turn_gone_wrong_never_raises_and_shows_nothing_that_was_not_said(
    library: HarmonyEncoding, vocabulary: Vocabulary, turn: Turn, data: st.DataObject
) -> None:
    check_sane(data.draw(mutated(sampled(turn, library, vocabulary))), vocabulary)


@settings(max_examples=100, deadline=None)
@given(turn=TURNS, data=st.data())
def test_no_replacement_character_is_shown_where_the_bytes_are_whole(
    library: HarmonyEncoding, vocabulary: Vocabulary, turn: Turn, data: st.DataObject
) -> None:
    # Text of one token a byte, so that each cut but those between characters is within one.
    whole = [(header, text.replace("\ufffd", ""), behind, True) for header, text, behind, _ in turn]
    tokens = sampled(whole, library, vocabulary)
    parser = HarmonyParser(vocabulary)
    events: list[Event] = []
    for token in tokens[: data.draw(st.integers(0, len(tokens)))]:
        events += parser.push(token)
    events += parser.finish()

    assert not any("\ufffd" in event.text for event in events if isinstance(event, TextDelta))


ENDLESS = {
    "words": [" word"],
    "blanks": [" "],
    "line ends": ["\n\n"],
    "channels": ["<|channel|>"],
    "constraints": ["<|constrain|>"],
    "reserved tokens": ["<|endofprompt|>"],
    "starts": ["<|start|>"],
    "starts with a role": ["<|start|>", "assistant"],
    "channels with a name": ["<|channel|>", "final"],
    "recipients": [" to=functions.f"],
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_is_kept_of_a_header_without_end_is_bounded(case: str, vocabulary: Vocabulary) -> None:
    tokens = encode("".join(ENDLESS[case]), vocabulary) * 5_000
    parser = HarmonyParser(vocabulary)
    longest = 0
    for token in tokens:
        parser.push(token)
        longest = max(longest, len(parser._parts), sum(len(part.data) for part in parser._parts))

    assert longest <= MAX_HEADER_TOKENS * len(" functions")
    check_sane(tokens[:2_000], vocabulary)


def test_the_longest_name_of_a_function_fits_a_header_in_single_letters(vocabulary: Vocabulary) -> None:
    name = "aB3_" * 16
    letters = in_bytes(vocabulary.encode(name), vocabulary)
    tokens = [
        *encode("<|channel|>commentary to=functions.", vocabulary),
        *letters,
        *encode(" <|constrain|>json<|message|>{}<|call|>", vocabulary),
    ]

    assert len(letters) == 64
    assert read(tokens, vocabulary) == [Read("commentary", "{}", f"functions.{name}", "json", called=True)]


@settings(max_examples=100, deadline=None)
@given(turn=TURNS, stop=st.sampled_from(sorted(STOP_TOKENS)), after=st.lists(NOISE, max_size=12))
def test_nothing_after_a_stop_token_changes_what_was_read(
    library: HarmonyEncoding, vocabulary: Vocabulary, turn: Turn, stop: int, after: list[int]
) -> None:
    tokens = [*sampled(turn, library, vocabulary)[:-1], stop]

    assert read([*tokens, *after], vocabulary) == read(tokens, vocabulary)
