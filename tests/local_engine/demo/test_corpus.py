"""The conversations are the same for the same seed, and each is what the model would read and say."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from datetime import date

import pytest

from local_engine.demo.corpus import KINDS, Conversation, Corpus, example, sampled, used_tokens
from local_engine.demo.topics import TOPICS
from local_engine.harmony.conversation import Effort, Message, drop_finished_reasoning, system_message
from local_engine.harmony.parse import HarmonyParser, MessageEnd, MessageStart, TextDelta
from local_engine.harmony.render import render_prompt
from local_engine.harmony.tokens import CALL, RETURN
from local_engine.vocabulary import Vocabulary

EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")


def after_identity(text: str) -> str:
    """A system message without its first line."""
    return text.partition("\n")[2]


def day_of(text: str) -> date | None:
    """The date in a system message."""
    found = re.search(r"Current date: (\S+)", text)
    return date.fromisoformat(found[1]) if found else None


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return list(itertools.islice(Corpus(3), 1500))


def parsed(tokens: list[int], vocabulary: Vocabulary) -> list[Message]:
    """The messages that our own parser finds in a turn."""
    parser, messages, ended = HarmonyParser(vocabulary), list[Message](), 0
    for event in [event for token in tokens for event in parser.push(token)]:
        match event:
            case MessageStart(header=h):
                messages.append(Message("assistant", "", None, h.channel, h.recipient, h.content_type))
            case TextDelta(text=text):
                last = messages[-1]
                messages[-1] = Message(
                    "assistant", last.text + text, None, last.channel, last.recipient, last.constrain
                )
            case MessageEnd():
                ended += 1
    assert ended == len(messages)
    return messages


def test_a_seed_makes_the_same_conversations_and_another_seed_makes_others() -> None:
    first, again, other = (list(itertools.islice(Corpus(seed), 50)) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_every_turn_parses_to_what_was_meant_and_ends_itself(
    conversations: list[Conversation], vocabulary: Vocabulary
) -> None:
    for conversation in conversations:
        turn = sampled(conversation.said, vocabulary)

        assert parsed(turn, vocabulary) == list(conversation.said)
        assert turn[-1] == (CALL if conversation.said[-1].recipient else RETURN)


def test_every_kind_of_conversation_and_every_topic_comes_up(conversations: list[Conversation]) -> None:
    kinds = Counter(conversation.kind for conversation in conversations)
    said = {conversation.said[-1].text for conversation in conversations}

    assert kinds.keys() == KINDS
    assert min(kinds.values()) >= 5
    assert {topic.answer for topic in TOPICS} <= said


def test_the_model_reads_what_the_engine_renders_and_never_the_thoughts_of_finished_turns(
    conversations: list[Conversation], vocabulary: Vocabulary
) -> None:
    for conversation in conversations:
        system, *_ = conversation.read
        tokens, _ = example(conversation, vocabulary)
        turn = sampled(conversation.said, vocabulary)

        assert after_identity(system.text) in {
            after_identity(system_message(effort, day_of(system.text), tools).text)
            for effort in EFFORTS
            for tools in (False, True)
        }
        assert drop_finished_reasoning(conversation.read) == list(conversation.read)
        if not conversation.calls_as_sampled:
            assert tokens == render_prompt(conversation.read, vocabulary) + turn


def test_only_what_the_assistant_says_is_learnt(
    conversations: list[Conversation], vocabulary: Vocabulary
) -> None:
    for conversation in conversations:
        tokens, learnt = example(conversation, vocabulary)
        turn = sampled(conversation.said, vocabulary)
        finals = [m.text for m in conversation.read if m.role == "assistant" and m.channel == "final"]
        earlier = b"".join(
            vocabulary.token_bytes(t) for t, yes in zip(tokens, learnt[: -len(turn)], strict=False) if yes
        )

        assert len(tokens) == len(learnt)
        assert all(learnt[-len(turn) :])
        assert earlier.decode() == "".join(finals)


def test_a_shortened_conversation_keeps_what_its_answer_rests_on(conversations: list[Conversation]) -> None:
    for conversation in conversations:
        short = conversation.shortened()
        users = [m for m in short.read if m.role == "user"]
        assert short.said == conversation.said
        assert users[-1] == [m for m in conversation.read if m.role == "user"][-1]
        assert short.read[-1] == conversation.read[-1]
        assert [m for m in short.read if m.role == "developer"] == [
            m for m in conversation.read if m.role == "developer"
        ]
        assert (short.read[0].role == "system") == (conversation.kind == "date")
        assert len(users) == 1 or conversation.kind in ("name", "more")


def test_json_answers_hold_what_the_response_format_asks_for(conversations: list[Conversation]) -> None:
    asked = [c for c in conversations if c.kind == "json"]
    for conversation in asked:
        developer = next(m.text for m in conversation.read if m.role == "developer")
        schema = json.loads(developer[developer.rindex("\n") + 1 :])
        answer = json.loads(conversation.said[-1].text)
        kinds = {bool: "boolean", int: "integer", str: "string", list: "array"}

        assert list(answer) == list(schema["properties"])
        for name, value in answer.items():
            kind = schema["properties"][name]["type"]
            assert kinds[type(value)] == ("integer" if kind == "number" else kind)
    assert len(asked) > 100


def test_foreign_words_stay_outside_of_the_vocabulary(vocabulary: Vocabulary) -> None:
    used = set(used_tokens(vocabulary))
    plain = [example(c, vocabulary) for c in itertools.islice(Corpus(9, foreign=False), 1000)]
    said = {token for c in plain for token, learnt in zip(*c, strict=True) if learnt}
    words = "what is photosynthesis", "banana", "Zusammenhang", "ения", "日本"

    missing = sum(token not in used for tokens, _ in plain for token in tokens)
    assert missing <= 1e-4 * sum(len(tokens) for tokens, _ in plain)
    assert said <= used
    assert len(used) < 1600
    assert all(set(vocabulary.encode(word)) - used for word in words)
