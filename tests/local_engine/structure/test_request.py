"""Which requests are held to a structure, what is refused, and what is compiled once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from local_engine.errors import Refused
from local_engine.harmony.conversation import Message
from local_engine.harmony.render import render_message
from local_engine.harmony.tokens import FIRST_SPECIAL, MESSAGE, VOCABULARY_SIZE
from local_engine.structure import masks
from local_engine.structure.grammars import KEPT_GRAMMARS, JsonGrammars
from local_engine.structure.headers import call_header, channel_header, json_header, trie
from local_engine.structure.request import FRAME_TOKENS, Structures, ToolSpec, reasoning_budget
from local_engine.vocabulary import Vocabulary
from tests.local_engine.test_imports import loaded_after

LOOSE = ToolSpec("loose", {"properties": {"a": {"not": {}}}})
STRICT = ToolSpec("strict", {"type": "object", "properties": {"a": {}}}, strict=True)


@pytest.mark.parametrize(
    ("request_", "held"),
    [
        ({}, False),
        ({"tools": [LOOSE]}, False),
        ({"tools": [LOOSE], "tool_choice": "none"}, False),
        ({"tools": [STRICT], "tool_choice": "none"}, False),
        ({"tools": [LOOSE], "tool_choice": "none", "response_format": "json_object"}, True),
        ({"tools": [LOOSE], "response_format": "json_object"}, True),
        ({"tools": [LOOSE, STRICT]}, True),
        ({"tools": [STRICT], "tool_choice": "required"}, True),
        ({"tools": [STRICT, LOOSE], "tool_choice": "strict"}, True),
        ({"response_format": {"type": "object"}}, True),
    ],
)
def test_a_request_is_held_only_where_it_asks_for_it(
    structures: Structures, request_: dict[str, Any], held: bool
) -> None:
    assert (structures.for_request(**request_, max_tokens=100) is not None) is held


def test_arguments_are_held_without_strict_where_the_caller_wants_it(structures: Structures) -> None:
    tool = ToolSpec("f", {"type": "object", "properties": {"a": {}}})
    assert structures.for_request([tool], max_tokens=100) is None
    assert structures.for_request([tool], max_tokens=100, hold_arguments=True) is not None
    with pytest.raises(Refused, match="uses `not`"):
        structures.for_request([LOOSE], max_tokens=100, hold_arguments=True)


@pytest.mark.parametrize(
    ("request_", "message", "param"),
    [
        (
            {"tool_choice": "required"},
            "`tool_choice` requires a call, but there are no `tools`",
            "tool_choice",
        ),
        (
            {"tools": [STRICT], "tool_choice": "correct-horse"},
            "`tool_choice` names a function that `tools` does not hold",
            "tool_choice",
        ),
        ({"tools": [STRICT, STRICT]}, "two of the `tools` have the same name", "tools"),
    ],
)
def test_a_choice_that_does_not_fit_the_tools_is_refused(
    structures: Structures, request_: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(Refused) as refused:
        structures.for_request(**request_, max_tokens=100)
    assert (refused.value.message, refused.value.param, refused.value.code) == (
        message,
        param,
        "invalid_value",
    )


@pytest.mark.parametrize(
    ("max_tokens", "budget"), [(1, 0), (FRAME_TOKENS + 1, 0), (FRAME_TOKENS + 2, 1), (1032, 500)]
)
def test_reasoning_gets_half_of_what_the_frame_leaves(max_tokens: int, budget: int) -> None:
    assert reasoning_budget(max_tokens) == budget


def test_headers_are_spelled_as_they_are_rendered(vocabulary: Vocabulary) -> None:
    for channel in ("analysis", "final"):
        rendered = render_message(Message("assistant", "", channel=channel), vocabulary)
        assert channel_header(channel, vocabulary) == rendered[2 : rendered.index(MESSAGE)]
    rendered = render_message(Message("assistant", "", channel="final", constrain="json"), vocabulary)
    assert (
        json_header(channel_header("final", vocabulary), vocabulary) == rendered[2 : rendered.index(MESSAGE)]
    )
    text = b"".join(vocabulary.token_bytes(token) for token in call_header("get_weather-2", vocabulary))
    assert text == b"<|channel|>commentary to=functions.get_weather-2 <|constrain|>json"
    between = call_header("get_weather-2", vocabulary)[1:-2]
    assert between == vocabulary.encode("commentary to=functions.get_weather-2 ")


def test_a_trie_shares_what_headers_share() -> None:
    root = trie([([1, 2], "short"), ([1, 2, 3], "long"), ([4], "other")])
    assert sorted(root.tokens) == [1, 4]
    node = root.children[1].children[2]
    assert (sorted(node.tokens), node.leaf) == ([3, MESSAGE], "short")
    assert (node.children[3].tokens, node.children[3].leaf) == ([MESSAGE], "long")


def test_masks_hold_one_bit_for_each_token() -> None:
    ordinary = masks.ordinary_tokens()
    assert masks.tokens_of(ordinary) == list(range(FIRST_SPECIAL))
    mask = ordinary.copy()
    chosen = [0, 31, 32, 63, FIRST_SPECIAL - 1, FIRST_SPECIAL, VOCABULARY_SIZE - 1]
    masks.allow_only(mask, chosen)
    assert masks.tokens_of(mask) == chosen
    masks.clear_specials(mask)
    assert masks.tokens_of(mask) == chosen[:5]
    with pytest.raises(ValueError, match="read-only"):
        ordinary[0] = 0


def test_a_schema_is_compiled_once_and_the_oldest_are_let_go(vocabulary: Vocabulary) -> None:
    grammars = JsonGrammars(vocabulary)
    first = grammars.compile({"const": 0})
    assert grammars.compile({"const": 0}) is first
    for n in range(1, KEPT_GRAMMARS):
        grammars.compile({"const": n})
    assert grammars.compile({"const": 0}) is first
    second = grammars.compile({"const": 1})
    grammars.compile({"const": "one more"})
    grammars.compile({"const": "and another"})
    assert grammars.compile({"const": 0}) is first
    assert grammars.compile({"const": 1}) is second
    for n in range(KEPT_GRAMMARS):
        grammars.compile({"const": f"new {n}"})
    assert grammars.compile({"const": 0}) is not first


def test_threads_may_ask_and_fill_at_the_same_time(structures: Structures) -> None:
    masks_of: dict[int, list[bytes]] = {}

    def work(n: int) -> None:
        made = structures.for_request(response_format={"enum": ["a", "b"]}, max_tokens=100)
        assert made is not None
        mask = np.zeros(masks.WORDS, np.int32)
        masks_of[n] = []
        for _ in range(20):
            turn = made()
            for token in (200005, 17196, MESSAGE):
                turn.accept(token)
            turn.fill(mask)
            masks_of[n].append(mask.tobytes())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for filled in masks_of.values() for one in filled}) == 1
    assert [len(filled) for filled in masks_of.values()] == [20] * 4


def test_structures_need_neither_torch_nor_a_server() -> None:
    absent = {"torch", "gateway", "litellm", "fastapi", "pydantic"}
    assert not loaded_after("import local_engine.structure.request") & absent
