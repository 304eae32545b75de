"""Models without a mind, held to a structure, give answers that are read back and validate."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from local_engine.harmony.tokens import CALL, CHANNEL, CONSTRAIN, END, FIRST_SPECIAL, MESSAGE, RETURN
from local_engine.structure.masks import WORDS, tokens_of
from local_engine.structure.request import Structures, ToolSpec, reasoning_budget
from local_engine.structure.turn import Turn
from local_engine.vocabulary import Vocabulary
from tests.local_engine.structure.models import Reader, opinionated, say, uniform

MAX_TOKENS = 800
SEEDS = range(6)


def record(**properties: Any) -> dict[str, Any]:
    """A closed object, all properties required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


WORD = {"type": "string", "maxLength": 8}
BOUNDED: dict[str, dict[str, Any]] = {
    "strings": record(empty={"type": "string", "maxLength": 0}, some={**WORD, "minLength": 3}),
    "patterns": record(code={"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"}, end={"enum": ["é", "日本"]}),
    "formats": record(
        day={"type": "string", "format": "date"},
        id={"type": "string", "format": "uuid"},
        host={"type": "string", "format": "ipv4"},
    ),
    "integers": record(
        n={"type": "integer", "minimum": -5, "maximum": 120}, even={"multipleOf": 2, "enum": [4]}
    ),
    "exclusive": record(
        x={"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        y={"type": "integer", "minimum": 10, "maximum": 60, "multipleOf": 5},
    ),
    "enums": {"enum": ["red", "green", 7, 2.5, None, True, ["a", 1], {"k": "v"}]},
    "lists": {"type": "array", "items": WORD, "minItems": 1, "maxItems": 3},
    "tuples": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"type": "null"}],
        "items": False,
        "minItems": 2,
        "maxItems": 2,
    },
    "nested": record(a=record(b=record(c=WORD, d={"type": "boolean"})), e={"type": ["null", "boolean"]}),
    "references": {
        **record(first={"$ref": "#/$defs/point"}, second={"$ref": "#/$defs/point"}),
        "$defs": {
            "point": record(x={"$ref": "#/$defs/small"}, y={"$ref": "#/$defs/small"}),
            "small": {"type": "integer", "minimum": 0, "maximum": 99},
        },
    },
    "alternatives": {"anyOf": [WORD, record(kind={"const": "n"}, n={"type": "boolean"}), {"type": "null"}]},
    "one of": {"oneOf": [record(kind={"const": "a"}, a=WORD), record(kind={"const": "b"}, b={"const": 1.5})]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}},
            {
                "properties": {"a": {"maxLength": 4}, "b": {}},
                "required": ["a"],
                "additionalProperties": False,
            },
        ]
    },
    "optional": {
        "type": "object",
        "title": "Optional",
        "properties": {"a": {**WORD, "description": "may be left out"}, "b": WORD, "c": {"const": "c"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "maps": {
        "type": "object",
        "patternProperties": {"^[a-z]{1,3}$": {"type": "boolean"}},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "escapes": record(**{'a "quoted"\nkey': {"enum": ['line\nbreak "and" quotes', "tab\t", "\\d"]}}),
}
"""Every value of these has few characters, so that a model without a mind comes to an end."""

OBJECTS = {name: schema for name, schema in BOUNDED.items() if schema.get("type") == "object"}


def valid(text: str, schema: dict[str, Any]) -> bool:
    """Whether a text is JSON that validates."""
    return bool(Draft202012Validator(schema).is_valid(json.loads(text)))


class Tally:
    """Counts how turns end, and checks what every turn must keep to."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.ends: Counter[str] = Counter()

    def messages(self, turn: Turn, tokens: list[int]) -> list[tuple[str, str, str]]:
        """Channel, recipient and text of the turn's messages; none when it was cut."""
        assert turn.reasoning_tokens <= reasoning_budget(MAX_TOKENS)
        assert turn.ended == (tokens[-1] in (RETURN, CALL))
        if not turn.ended:
            assert len(tokens) == MAX_TOKENS
            self.ends["length"] += 1
            return []
        self.ends["tool_calls" if tokens[-1] == CALL else "stop"] += 1
        messages = Reader(self._vocabulary).read(tokens)
        assert [m.called for m in messages] == [False] * (len(messages) - 1) + [tokens[-1] == CALL]
        assert sum(m.header.channel == "analysis" for m in messages) <= 1
        assert all(m.header.content_type == "json" for m in messages if m.header.recipient is not None)
        return [(m.header.channel, m.header.recipient or "", m.text) for m in messages]

    @property
    def ended(self) -> float:
        """The share of turns that ended by themselves."""
        return 1 - self.ends["length"] / self.ends.total()


@pytest.mark.parametrize("model", [uniform, opinionated])
def test_answers_to_a_response_format_validate(
    structures: Structures, vocabulary: Vocabulary, model: Any
) -> None:
    tally = Tally(vocabulary)
    for schema in BOUNDED.values():
        made = structures.for_request(response_format=schema, max_tokens=MAX_TOKENS)
        assert made is not None
        for seed in SEEDS:
            turn = made()
            messages = tally.messages(turn, say(turn, model(seed), MAX_TOKENS))
            if messages:
                assert {channel for channel, *_ in messages[:-1]} <= {"analysis"}
                channel, recipient, text = messages[-1]
                assert (channel, recipient) == ("final", "")
                assert valid(text, schema), text
    assert tally.ended >= 0.95
    assert set(tally.ends) <= {"stop", "length"}


# An opinionated model that prefers one more call to the end has its way until it is cut.
@pytest.mark.parametrize(("model", "parallel"), [(uniform, True), (uniform, False), (opinionated, False)])
def test_required_calls_are_of_functions_on_offer_with_arguments_that_validate(
    structures: Structures, vocabulary: Vocabulary, model: Any, parallel: bool
) -> None:
    tools = {f"take_{name}".replace(" ", "_"): schema for name, schema in OBJECTS.items()}
    made = structures.for_request(
        [ToolSpec(name, schema) for name, schema in tools.items()],
        "required",
        parallel=parallel,
        max_tokens=MAX_TOKENS,
    )
    assert made is not None
    tally = Tally(vocabulary)
    called: set[str] = set()
    for seed in range(40):
        turn = made()
        messages = tally.messages(turn, say(turn, model(seed), MAX_TOKENS))
        calls = [message for message in messages if message[1]]
        for channel, recipient, text in calls:
            assert channel == "commentary"
            assert valid(text, tools[recipient.removeprefix("functions.")]), text
        assert all(channel in ("analysis", "commentary") for channel, *_ in messages)
        assert not messages or (len(calls) >= 1 if parallel else len(calls) == 1)
        called |= {recipient for _, recipient, _ in calls}
    assert tally.ended >= 0.95
    assert set(tally.ends) <= {"tool_calls", "length"}
    assert len(called) > 1


def test_a_named_choice_always_calls_that_function(structures: Structures, vocabulary: Vocabulary) -> None:
    tools = [ToolSpec(f"f{n}", schema) for n, schema in enumerate(OBJECTS.values())]
    tally = Tally(vocabulary)
    for n, schema in enumerate(OBJECTS.values()):
        made = structures.for_request(tools, f"f{n}", parallel=False, max_tokens=MAX_TOKENS)
        assert made is not None
        for seed in SEEDS:
            turn = made()
            messages = tally.messages(turn, say(turn, uniform(seed), MAX_TOKENS))
            calls = [(recipient, text) for _, recipient, text in messages if recipient]
            assert [recipient for recipient, _ in calls] == [f"functions.f{n}"] * bool(messages)
            assert all(valid(text, schema) for _, text in calls)
    assert tally.ended >= 0.95


def test_under_auto_a_response_format_and_calls_are_both_possible(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    tool = ToolSpec("note", OBJECTS["optional"], strict=True)
    made = structures.for_request([tool], response_format=BOUNDED["enums"], max_tokens=MAX_TOKENS)
    assert made is not None
    tally = Tally(vocabulary)
    for seed in range(40):
        turn = made()
        messages = tally.messages(turn, say(turn, uniform(seed), MAX_TOKENS))
        for channel, recipient, text in messages:
            if channel != "analysis":
                assert valid(text, tool.parameters if recipient else BOUNDED["enums"])  # type: ignore[arg-type]
        content = [text for channel, recipient, text in messages if channel != "analysis" and not recipient]
        assert len(content) <= 1, "more than one text would not be one JSON value to the client"
    assert tally.ends["stop"] > 0
    assert tally.ends["tool_calls"] > 0
    assert tally.ended >= 0.95


@pytest.mark.parametrize(
    "schema",
    [
        record(text={"type": "string", "minLength": 100_000}),
        {"type": "array", "items": {"type": "boolean"}, "minItems": 5000},
        record(a={"type": "boolean"}, next={"$ref": "#"}),
    ],
    ids=["string", "list", "recursion"],
)
def test_a_turn_without_bounds_is_cut_and_says_so(
    structures: Structures, vocabulary: Vocabulary, schema: dict[str, Any]
) -> None:
    made = structures.for_request(response_format=schema, max_tokens=MAX_TOKENS)
    assert made is not None
    turn = made()
    assert Tally(vocabulary).messages(turn, say(turn, uniform(1), MAX_TOKENS)) == []
    assert not turn.ended


def test_the_same_seed_says_the_same_whatever_other_choices_do(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    made = structures.for_request(response_format=BOUNDED["nested"], max_tokens=MAX_TOKENS)
    assert made is not None
    alone = say(made(), uniform(5), MAX_TOKENS)
    one, other = made(), made()
    draws = {one: uniform(5), other: uniform(6)}
    mask = np.zeros(WORDS, np.int32)
    said: dict[Turn, list[int]] = {one: [], other: []}
    while not (one.ended and other.ended):
        for turn, draw in draws.items():
            if not turn.ended:
                turn.fill(mask)
                said[turn].append(draw(mask))
                turn.accept(said[turn][-1])
    assert said[one] == alone
    assert said[other] != alone


def test_no_special_token_is_ever_allowed_inside_json(structures: Structures, vocabulary: Vocabulary) -> None:
    made = structures.for_request(
        [ToolSpec("f", OBJECTS["strings"])], "required", parallel=True, max_tokens=MAX_TOKENS
    )
    assert made is not None
    header = [
        CHANNEL,
        *vocabulary.encode("commentary to=functions.f "),
        CONSTRAIN,
        *vocabulary.encode("json"),
        MESSAGE,
    ]
    mask = np.zeros(WORDS, np.int32)
    steps = 0
    for seed in range(20):
        turn, draw, said = made(), uniform(seed), b""
        for token in header:
            turn.accept(token)
        while not turn.ended:
            turn.fill(mask)
            words = mask.copy()
            words[: FIRST_SPECIAL // 32] = 0
            specials = {token for token in tokens_of(words) if token >= FIRST_SPECIAL}
            assert specials == ({CALL, END} if _is_json(said) else set())
            token = draw(mask)
            if token in (CALL, END):
                break
            turn.accept(token)
            said += vocabulary.token_bytes(token)
            steps += 1
    assert steps > 100


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
