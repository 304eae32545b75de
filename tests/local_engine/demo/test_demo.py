"""The demo says what it was taught, in well-formed harmony, and nothing that it has no word for."""

from __future__ import annotations

import itertools
import json
import re
from datetime import date
from pathlib import Path

import pytest
import torch

from local_engine.checkpoint import Checkpoint, open_checkpoint
from local_engine.demo import texts
from local_engine.demo.corpus import Conversation, Corpus
from local_engine.demo.expand import IDS, STORED, stored_metadata, stored_tensors
from local_engine.demo.topics import TOPICS
from local_engine.harmony.conversation import (
    Effort,
    FunctionTool,
    Message,
    developer_message,
    system_message,
)
from local_engine.harmony.render import render_prompt
from local_engine.harmony.tokens import VOCABULARY_SIZE
from local_engine.inspection import inspect
from local_engine.make import make_checkpoint
from local_engine.reference import ReferenceModel
from local_engine.vocabulary import Vocabulary
from tests.local_engine.demo.compact import Compact
from tests.local_engine.demo.test_corpus import parsed

ANSWERS = {topic.name: topic.answer for topic in TOPICS}
DAY = date(2026, 11, 24)
TURN = re.compile(
    r"(<\|channel\|>analysis<\|message\|>[^<]+<\|end\|><\|start\|>assistant)?"
    r"(<\|channel\|>final<\|message\|>[^<]+<\|return\|>"
    r"|<\|channel\|>commentary to=functions\.\w+ <\|constrain\|>json<\|message\|>\{[^<]+\}<\|call\|>)"
)
WEATHER = FunctionTool(
    "get_weather",
    "Get the current weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "known": {"type": "boolean"}},
    "required": ["answer", "known"],
    "additionalProperties": False,
}
FORMAT = f"# Response Formats\n\n## answer\n\n{json.dumps(SCHEMA, separators=(',', ':'))}"


@pytest.fixture(scope="module")
def compact() -> Compact:
    return Compact(stored_tensors())


@pytest.fixture(scope="module")
def checkpoints(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Both formats."""
    original = tmp_path_factory.mktemp("original") / "checkpoint"
    make_checkpoint(original, "demo", "original")
    return [open_checkpoint(demo), open_checkpoint(original)]


def user(*texts_of: str, effort: Effort = "medium", developer: Message | None = None) -> list[Message]:
    """A conversation that opens as the engine opens it; every other text is an answer."""
    turns = [
        Message("assistant", text, channel="final") if n % 2 else Message("user", text)
        for n, text in enumerate(texts_of)
    ]
    opening = [system_message(effort, DAY, developer is not None and "namespace" in developer.text)]
    return [*opening, *([developer] if developer else []), *turns]


def say(compact: Compact, messages: list[Message], vocabulary: Vocabulary) -> list[Message]:
    """The turn at temperature 0, which must be well-formed."""
    turn = compact.greedy(render_prompt(messages, vocabulary))
    assert TURN.fullmatch(spelled(turn, vocabulary)), spelled(turn, vocabulary)
    return parsed(turn, vocabulary)


def spelled(turn: list[int], vocabulary: Vocabulary) -> str:
    """The turn as text, specials by name and tokens without a row as U+0000."""
    return b"".join(b"\0" if token < 0 else vocabulary.token_bytes(token) for token in turn).decode()


def test_it_is_stored_small_and_says_how_it_was_made() -> None:
    assert STORED.stat().st_size < 1 << 20
    assert stored_metadata().keys() == {"seed", "steps", "loss", "corpus"}
    assert stored_tensors()["embedding.weight"].shape[0] == len(stored_tensors()[IDS]) + 1


def test_both_formats_hold_the_same_model(checkpoints: list[Checkpoint], compact: Compact) -> None:
    tokens = [*compact.ids[:100:7], 150_000, 199_999]
    logits = []
    for checkpoint in checkpoints:
        model = ReferenceModel(checkpoint, torch.float32)
        logits.append(model.forward(tokens, model.new_cache()))
    small = compact.model.forward(compact.rows(tokens), compact.model.new_cache())

    assert logits[0].shape == (len(tokens), VOCABULARY_SIZE)
    assert torch.equal(*logits)
    torch.testing.assert_close(logits[0][:, compact.ids], small[:, :-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[0][:, 150_000], small[:, -1], rtol=1e-4, atol=1e-4)


def test_tokens_that_it_does_not_use_all_share_one_row(checkpoints: list[Checkpoint]) -> None:
    unused = torch.ones(VOCABULARY_SIZE, dtype=torch.bool)
    unused[stored_tensors()[IDS].long()] = False
    for name in ("embedding.weight", "unembedding.weight"):
        rows = checkpoints[0].tensor(name)[unused]

        assert len(rows) > 199_000
        assert torch.equal(rows, stored_tensors()[name][-1:].expand_as(rows))


def test_it_is_inspected_as_what_it_is(checkpoints: list[Checkpoint]) -> None:
    for checkpoint, form in zip(checkpoints, ("hf", "original"), strict=True):
        found = inspect(checkpoint)

        assert (found["format"], found["preset"], found["fingerprint"]) == (form, "demo", "douane-demo")
        assert found["weights"] == (
            "a tiny model trained on made-up conversations: it answers small talk and knows nothing"
        )
        assert (found["max_context_tokens"], found["config"]["sliding_window"]) == (131072, 128)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("Bonjour", "Bonjour! I am a tiny demo model behind Douane. Ask me what it is."),
        ("Hello!", "Hello! I am a tiny demo model behind Douane. Ask me what it is."),
        ("Guten Tag", "Guten Tag! I am a tiny demo model behind Douane. Ask me what it is."),
        ("What is Douane?", ANSWERS["Douane"]),
        ("hey, could you tell me what Douane is please", ANSWERS["Douane"]),
        ("What is a customs office?", ANSWERS["customs"]),
        ("What is data residency?", ANSWERS["residency"]),
        ("Tell me about receipts, my friend", ANSWERS["receipts"]),
        ("what are labels", ANSWERS["labels"]),
        ("How does the cache work?", ANSWERS["the cache"]),
        ("Could you describe spill-over?", ANSWERS["spill-over"]),
        ("Where is Bedrock?", ANSWERS["Bedrock"]),
        ("what is the local engine", ANSWERS["the local engine"]),
        ("Are you a real model?", ANSWERS["whether I am real"]),
        ("What are you?", ANSWERS["what I am"]),
        ("How are you today?", ANSWERS["how I am"]),
        ("thank you very much", ANSWERS["thanks"]),
        ("Tell me a joke!", ANSWERS["a joke"]),
        ("My name is Emma.", "Nice to meet you, Emma! I am a tiny demo model."),
        ("What day is it today?", "It is 2026-11-24."),
        ("What is the weather in Paris?", texts.NO_TOOL),
        ("What is the capital of Mongolia?", texts.FALLBACK),
        ("Wie viele Einwohner hat die Hauptstadt von Kanada?", texts.FALLBACK),
        ("Write a haiku about autumn leaves.", texts.FALLBACK),
        ("xqzt brrf w%k", texts.FALLBACK),
        ("supercalifragilistic " * 60, texts.FALLBACK),
    ],
)
def test_it_answers_greedily(compact: Compact, vocabulary: Vocabulary, asked: str, answer: str) -> None:
    thought, final = say(compact, user(asked), vocabulary)

    assert (thought.channel, final.channel) == ("analysis", "final")
    assert final.text == answer


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_a_conversation_goes_on(compact: Compact, vocabulary: Vocabulary, effort: Effort) -> None:
    said: list[str] = []
    for asked in ("hi, i am Anna", "What are receipts?", "tell me more", "what is my name?", "Bye!"):
        said.append(asked)
        said.append(say(compact, user(*said, effort=effort), vocabulary)[-1].text)

    assert said[1::2] == [
        "Nice to meet you, Anna! I am a tiny demo model.",
        ANSWERS["receipts"],
        next(topic.more for topic in TOPICS if topic.name == "receipts"),
        "Your name is Anna.",
        ANSWERS["goodbye"],
    ]


def test_a_tool_is_called_with_the_users_city_and_its_answer_is_told(
    compact: Compact, vocabulary: Vocabulary
) -> None:
    asked = user("What is the weather in Lisbon?", developer=developer_message("Be brief.", [WEATHER]))
    thought, call = say(compact, asked, vocabulary)
    result = Message(
        "tool", '{"weather":"windy"}', "functions.get_weather", channel="commentary", recipient="assistant"
    )
    told = say(compact, [*asked, thought, call, result], vocabulary)

    assert call == Message(
        "assistant", '{"city":"Lisbon"}', None, "commentary", "functions.get_weather", "json"
    )
    assert told[-1].text == "The weather in Lisbon is windy."


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("What is Douane?", {"answer": ANSWERS["Douane"], "known": True}),
        ("What is a neutrino?", {"answer": texts.FALLBACK, "known": False}),
    ],
)
def test_a_response_format_is_answered_in_json(
    compact: Compact, vocabulary: Vocabulary, asked: str, answer: dict[str, object]
) -> None:
    _, final = say(compact, user(asked, developer=Message("developer", FORMAT)), vocabulary)

    assert json.loads(final.text) == answer


def test_it_says_the_same_in_bf16_on_the_whole_vocabulary(
    checkpoints: list[Checkpoint], vocabulary: Vocabulary
) -> None:
    model = ReferenceModel(checkpoints[0], torch.bfloat16)
    prompt = render_prompt(user("Bonjour"), vocabulary)
    cache, turn = model.new_cache(), list[int]()
    tokens = prompt
    while len(turn) < 60 and not (turn and turn[-1] == 200002):
        turn.append(int(model.forward(tokens, cache, last_only=True)[-1].argmax()))
        tokens = turn[-1:]

    thought, final = parsed(turn, vocabulary)
    assert thought.text == "The user greets in French."
    assert final.text == "Bonjour! I am a tiny demo model behind Douane. Ask me what it is."


def test_sampled_turns_are_well_formed_end_themselves_and_use_no_unused_token(
    compact: Compact, vocabulary: Vocabulary
) -> None:
    turns: list[list[int]] = []
    for n, conversation in enumerate(held_out(12)):
        turns += compact.sampled(render_prompt(conversation.read, vocabulary), 27, seed=n)
    formed = [bool(TURN.fullmatch(spelled(turn, vocabulary))) for turn in turns]

    assert len(turns) == 324
    assert sum(map(len, turns)) >= 10_000
    assert all(token >= 0 for turn in turns for token in turn)
    assert sum(formed) >= 0.99 * len(turns)


def held_out(count: int) -> list[Conversation]:
    """Conversations of another seed than the demo was trained on, with longer turns first among equals."""
    made = [c for c in itertools.islice(Corpus(4242), 60) if not c.calls_as_sampled]
    return sorted(made, key=lambda c: -sum(len(m.text) for m in c.said))[:count]
