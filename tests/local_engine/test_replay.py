"""Past turns are replayed as sampled, to the tenant whose they are, for as long as there is room."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_engine.harmony.conversation import Message
from local_engine.harmony.render import render_prompt
from local_engine.replay import MIN_TURN_TOKENS, Replay, Seen, SeenCall
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import encode

ANSWER = (
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>hi there<|return|>"
)
SAW = Seen("hi there", reasoning="hm")
CALLS = (
    "<|channel|>analysis<|message|>hm<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|end|>"
    '<|start|>assistant to=functions.g<|channel|>commentary <|constrain|>json<|message|>{"x":1}<|call|>'
)
SAW_CALLS = Seen("I look.", (SeenCall("c1", "f", "{}"), SeenCall("c2", "g", '{"x":1}')), "hm")


def joined(messages: tuple[Message, ...] | None) -> list[int]:
    """The tokens of recalled messages, one behind the other."""
    assert messages is not None
    return [token for message in messages for token in message.tokens or ()]


def test_an_open_turn_is_recalled_exactly_as_sampled(vocabulary: Vocabulary) -> None:
    replay = Replay(vocabulary)
    sampled = encode(CALLS, vocabulary)
    prompt = render_prompt([Message("user", "u")], vocabulary)

    assert replay.remember("tenant", SAW_CALLS, sampled)
    recalled = replay.recall("tenant", SAW_CALLS)
    assert recalled is not None
    assert (
        render_prompt([Message("user", "u"), *recalled], vocabulary)[: len(prompt + sampled)]
        == prompt + sampled
    )
    assert [(m.channel, m.recipient, m.text) for m in recalled] == [
        ("analysis", None, "hm"),
        ("commentary", None, "I look."),
        ("commentary", "functions.f", "{}"),
        ("commentary", "functions.g", '{"x":1}'),
    ]


def test_the_return_of_a_finished_turn_is_an_end(vocabulary: Vocabulary) -> None:
    replay = Replay(vocabulary)
    replay.remember(None, SAW, encode(ANSWER, vocabulary))

    expected = "<|start|>assistant" + ANSWER.replace("<|return|>", "<|end|>")
    assert joined(replay.recall(None, SAW)) == encode(expected, vocabulary)


def test_a_client_that_keeps_no_reasoning_is_recognised_and_one_that_changed_it_is_not(
    vocabulary: Vocabulary,
) -> None:
    replay = Replay(vocabulary)
    replay.remember("t", SAW_CALLS, encode(CALLS, vocabulary))

    assert joined(replay.recall("t", replace(SAW_CALLS, reasoning=""))) == joined(
        replay.recall("t", SAW_CALLS)
    )
    assert replay.recall("t", replace(SAW_CALLS, reasoning="other")) is None


C1, C2 = SAW_CALLS.calls


@pytest.mark.parametrize(
    "other",
    [
        replace(SAW_CALLS, content="I look"),
        replace(SAW_CALLS, calls=(C1,)),
        replace(SAW_CALLS, calls=(C2, C1)),
        replace(SAW_CALLS, calls=()),
        replace(SAW_CALLS, calls=(C1, replace(C2, id="c3"))),
        replace(SAW_CALLS, calls=(C1, replace(C2, name="f"))),
        replace(SAW_CALLS, calls=(C1, replace(C2, arguments='{"x": 1}'))),
        Seen("I look.c1", (SeenCall("", "f", "{}"), C2), "hm"),
        Seen("\ud800"),
    ],
    ids=["content", "one call", "order", "no calls", "id", "name", "arguments", "cut elsewhere", "surrogate"],
)
def test_another_message_is_not_recalled(vocabulary: Vocabulary, other: Seen) -> None:
    replay = Replay(vocabulary)
    replay.remember("t", SAW_CALLS, encode(CALLS, vocabulary))

    assert replay.recall("t", other) is None


@pytest.mark.parametrize("salt", [None, "", "T", "t ", "salt t"])
def test_another_tenant_recalls_nothing(vocabulary: Vocabulary, salt: str | None) -> None:
    replay = Replay(vocabulary)
    replay.remember("t", SAW, encode(ANSWER, vocabulary))
    replay.remember("t", SAW_CALLS, encode(CALLS, vocabulary))

    assert replay.recall(salt, SAW) is None
    assert replay.recall(salt, SAW_CALLS) is None


@pytest.mark.parametrize(("mine", "others"), [(None, ""), ("", None)])
def test_no_salt_is_not_an_empty_salt(vocabulary: Vocabulary, mine: str | None, others: str | None) -> None:
    replay = Replay(vocabulary)
    replay.remember(mine, SAW, encode(ANSWER, vocabulary))

    assert replay.recall(others, SAW) is None
    assert replay.recall(mine, SAW) is not None


def test_of_two_turns_that_look_alike_the_later_wins(vocabulary: Vocabulary) -> None:
    replay = Replay(vocabulary)
    later = ANSWER.replace("hm", "so")
    replay.remember("t", SAW, encode(ANSWER, vocabulary))
    replay.remember("t", replace(SAW, reasoning="so"), encode(later, vocabulary))

    assert joined(replay.recall("t", Seen("hi there"))) == encode(
        "<|start|>assistant" + later.replace("<|return|>", "<|end|>"), vocabulary
    )
    assert replay.tokens == MIN_TURN_TOKENS


@pytest.mark.parametrize(
    ("sampled", "seen"),
    [
        (ANSWER.removesuffix("<|return|>"), SAW),
        (ANSWER.replace(" there<|return|>", ""), Seen("hi", reasoning="hm")),
        (ANSWER, Seen("hi")),
        (ANSWER, Seen("")),
        (CALLS, Seen("I look.", (C1,))),
        (CALLS, Seen("I look.", (C2, C1))),
        (CALLS, Seen("I look.", (C1, replace(C2, arguments="")))),
        (CALLS, Seen("I look.")),
        (CALLS.replace(" <|constrain|>json<|message|>{}", " json<|message|>{}"), SAW_CALLS),
        ("<|channel|>final hi there<|return|>", Seen("hi there")),
        ("", Seen("")),
    ],
    ids=[
        *[
            "cut by length",
            "cut by length in a word",
            "cut by a stop string",
            "stopped at once",
            "one call shown",
        ],
        *["calls in another order", "other arguments", "calls kept as reasoning", "a malformed header"],
        *["a missing message", "nothing"],
    ],
)
def test_a_turn_that_is_cut_malformed_or_shown_otherwise_is_not_remembered(
    vocabulary: Vocabulary, sampled: str, seen: Seen
) -> None:
    replay = Replay(vocabulary)

    assert not replay.remember("t", seen, encode(sampled, vocabulary))
    assert replay.recall("t", seen) is None
    assert replay.tokens == 0


def test_several_texts_are_seen_as_one(vocabulary: Vocabulary) -> None:
    replay = Replay(vocabulary)
    first, then = (
        "<|channel|>commentary<|message|>First.<|end|>",
        "<|channel|>final<|message|>Then.<|return|>",
    )
    sampled = encode(f"{first}<|start|>assistant{then}", vocabulary)

    assert replay.remember(None, Seen("First.\n\nThen."), sampled)


def answer(n: int, length: int, vocabulary: Vocabulary) -> tuple[Seen, list[int]]:
    """A turn of `length` tokens and what is seen of it."""
    words = vocabulary.encode(f"{n:03}") + vocabulary.encode(" a") * (length - 6)
    sampled = encode("<|channel|>final<|message|>", vocabulary) + words + encode("<|return|>", vocabulary)
    assert len(sampled) == length - 1
    return Seen(f"{n:03}" + " a" * (length - 6)), sampled


def test_the_least_recently_used_turns_go_first(vocabulary: Vocabulary) -> None:
    replay = Replay(vocabulary, max_tokens=300)
    turns = [answer(n, 101, vocabulary) for n in range(4)]
    for seen, sampled in turns[:3]:
        replay.remember("t", seen, sampled)
    replay.recall("t", turns[0][0])
    replay.remember("t", *turns[3])

    assert [replay.recall("t", seen) is not None for seen, _ in turns] == [True, False, True, True]
    assert replay.tokens == 300


def test_a_turn_larger_than_the_memory_displaces_nothing(vocabulary: Vocabulary) -> None:
    replay = Replay(vocabulary, max_tokens=100)
    small, large = answer(0, 101, vocabulary), answer(1, 102, vocabulary)

    assert replay.remember("t", *small)
    assert not replay.remember("t", *large)
    assert replay.recall("t", small[0]) is not None


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from(["a", "b"])), min_size=1, max_size=60
    )
)
def test_it_recalls_what_a_simple_model_of_it_recalls(
    vocabulary: Vocabulary, steps: list[tuple[bool, int, str]]
) -> None:
    replay = Replay(vocabulary, max_tokens=500)
    turns = [answer(n, 20 + 30 * n, vocabulary) for n in range(10)]
    model: list[tuple[str, int]] = []
    for remembers, n, salt in steps:
        seen, sampled = turns[n]
        known = (salt, n) in model
        if remembers or known:
            model = [*(one for one in model if one != (salt, n)), (salt, n)]
        if remembers:
            assert replay.remember(salt, seen, sampled)
        else:
            assert (replay.recall(salt, seen) is not None) is known
        while sum(max(len(turns[k][1]), MIN_TURN_TOKENS) for _, k in model) > 500:
            model.pop(0)

        assert replay.tokens == sum(max(len(turns[k][1]), MIN_TURN_TOKENS) for _, k in model)


def test_threads_share_it(vocabulary: Vocabulary) -> None:
    replay = Replay(vocabulary, max_tokens=1000)
    turns = [answer(n, 100, vocabulary) for n in range(20)]
    wrong: list[object] = []

    def use(salt: str) -> None:
        try:
            for _ in range(10):
                for seen, sampled in turns:
                    replay.remember(salt, seen, sampled)
                    recalled = replay.recall(salt, seen)
                    if recalled is not None and recalled[0].text != seen.content:
                        wrong.append(recalled)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=partial(use, salt)) for salt in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert replay.tokens == 990
