"""Answers come back with what placeholders stand for, in however many pieces they arrive."""

from __future__ import annotations

import itertools
import json

import orjson
import pytest

from gateway.detect.kinds import Found
from gateway.detect.placeholders import Placeholders, Restorer, Restoring, redact_text

THINGS = {"<EMAIL_1>": "ada@example.org", "<EMAIL_2>": "b@c.de", "<EMAIL_10>": "z@z.zz"}
ANSWER = "to <EMAIL_1>, <<EMAIL_2>> and <EMAIL_10> or <EMAIL_3>, <EMAIL, 1 < 2"
RESTORED = "to ada@example.org, <b@c.de> and z@z.zz or <EMAIL_3>, <EMAIL, 1 < 2"


def test_pieces_of_any_size_give_the_same_text() -> None:
    for size in range(1, len(ANSWER)):
        restorer = Restorer(THINGS)
        pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
        told = [restorer.piece(piece) for piece in pieces]

        assert "".join(told) + restorer.rest() == RESTORED


def test_no_more_is_held_back_than_the_beginning_of_a_placeholder() -> None:
    restorer = Restorer(THINGS)
    for character in ANSWER:
        restorer.piece(character)

        assert len(restorer.held) < max(map(len, THINGS))
        assert restorer.held == "" or any(name.startswith(restorer.held) for name in THINGS)


@pytest.mark.parametrize("cut", range(1, 10))
def test_the_events_of_a_stream_are_restored_across_their_borders(cut: int) -> None:
    name = "<EMAIL_1>"
    deltas = [
        {"role": "assistant", "content": ""},
        {"reasoning": f"of {name[:cut]}"},
        {"reasoning": name[cut:]},
        {"reasoning": "<EM"},
        {"content": name[:cut]},
        {"content": name[cut:] + "<"},
        {
            "tool_calls": [
                {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": "' + name[:cut]}}
            ]
        },
        {"tool_calls": [{"index": 1, "id": "d", "function": {"name": "g", "arguments": '{"b": "<EMA'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": name[cut:] + '"}'}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": 'IL_2>"}'}}]},
        {},
    ]
    restoring = Restoring({**THINGS, name: 'a "quoted"\nname'}, json_content=False)
    texts = {"reasoning": "", "content": "", 0: "", 1: ""}
    finished = False
    for number, delta in enumerate(deltas):
        finish = "tool_calls" if number == len(deltas) - 1 else None
        event = {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for data in restoring.event(orjson.dumps(event)):
            [choice] = orjson.loads(data)["choices"]
            assert not finished
            finished = bool(choice["finish_reason"])
            for part in ("reasoning", "content"):
                texts[part] += choice["delta"].get(part) or ""
            for call in choice["delta"].get("tool_calls") or ():
                texts[call["index"]] += call["function"]["arguments"]

    assert texts["reasoning"] == 'of a "quoted"\nname<EM'
    assert texts["content"] == 'a "quoted"\nname<'
    assert [json.loads(texts[0]), json.loads(texts[1])] == [{"a": 'a "quoted"\nname'}, {"b": "b@c.de"}]


def test_content_that_was_asked_for_as_json_stays_json() -> None:
    body = {"choices": [{"message": {"content": '{"a": "<EMAIL_1>"}'}}]}
    restored = Restoring({"<EMAIL_1>": 'x"y'}, json_content=True).body(body)

    assert json.loads(restored["choices"][0]["message"]["content"]) == {"a": 'x"y'}


def test_the_same_thing_has_the_same_placeholder_and_the_longest_of_two_that_overlap_counts() -> None:
    placeholders = Placeholders("text")
    text = "a b a c"
    spans = [Found(0, 1, "email"), Found(2, 3, "us-ssn"), Found(4, 7, "phone"), Found(4, 5, "email")]

    assert redact_text(text, spans, placeholders) == "<EMAIL_1> <US_SSN_1> <PHONE_1>"
    assert redact_text("a", [Found(0, 1, "email")], placeholders) == "<EMAIL_1>"
    assert placeholders.things == {"<EMAIL_1>": "a", "<US_SSN_1>": "b", "<PHONE_1>": "a c"}
    assert placeholders.counts == {"email": 2, "us-ssn": 1, "phone": 1}


def test_of_things_that_overlap_nothing_is_shown() -> None:
    text = "KD 4111 1111 1111 1111."
    placeholders = Placeholders("")
    redacted = redact_text(text, [Found(3, 22, "card"), Found(0, 7, "customer-number")], placeholders)

    assert redacted == "<CUSTOMER_NUMBER_1>."
    assert placeholders.things == {"<CUSTOMER_NUMBER_1>": "KD 4111 1111 1111 1111"}


def test_a_placeholder_is_never_a_part_of_the_request() -> None:
    taken = "".join(f"<EMAIL_{letter}" for letter in ("", *"ABCDEFGHJKLMNPQRSTUVWXYZ"))

    assert Placeholders(taken).put("email", "a") == "<EMAIL_AA1>"
    assert len({Placeholders("").put("email", "a") for _ in itertools.repeat(None, 3)}) == 1
