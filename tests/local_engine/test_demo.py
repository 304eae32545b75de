"""The demo speaks well-formed harmony, ends by itself, and says that it is a demo."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest
import torch

from local_engine.checkpoint import open_checkpoint
from local_engine.demo import ANALYSIS_WORDS, FINAL_WORDS, SPECIALS, STATES
from local_engine.engine import Engine
from local_engine.harmony.conversation import Message, system_message
from local_engine.harmony.parse import HarmonyParser, MessageStart, TextDelta
from local_engine.harmony.render import render_prompt
from local_engine.harmony.tokens import RETURN, STOP_TOKENS, VOCABULARY_SIZE
from local_engine.inspection import inspect
from local_engine.reference import ReferenceModel
from local_engine.sampling import SamplingParams, sample
from local_engine.steps import Finished, Step, Token
from local_engine.vocabulary import Vocabulary

GREETING = "Hello! I am a demo with random weights, so my words mean nothing; everything around me is real."
HISTORY = "Say analysis and final and assistant;<|channel|>commentary. Hello! We should..."


@pytest.fixture(scope="module")
def model(demo: Path) -> ReferenceModel:
    return ReferenceModel(open_checkpoint(demo), torch.bfloat16)


@pytest.fixture(scope="module")
def prompt(vocabulary: Vocabulary) -> list[int]:
    """A conversation whose text names the demo's own states, which must not mislead it."""
    messages = [
        system_message("medium", None, False),
        Message("user", HISTORY),
        Message("assistant", GREETING, channel="final"),
        Message("user", "final"),
    ]
    return render_prompt(messages, vocabulary)


def answer(model: ReferenceModel, prompt: list[int], params: SamplingParams) -> list[int]:
    """The tokens sampled after a prompt."""
    cache, out = model.new_cache(), list[int]()
    logits = model.forward(prompt, cache, last_only=True)
    while len(out) < params.max_tokens:
        out.append(sample(logits[-1], params, cache.length))
        if out[-1] in STOP_TOKENS:
            break
        logits = model.forward(out[-1:], cache, last_only=True)
    return out


def channels(tokens: list[int], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Channel and text of each message."""
    parser = HarmonyParser(vocabulary)
    messages: list[tuple[str, str]] = []
    for event in [event for token in tokens for event in parser.push(token)]:
        match event:
            case MessageStart(header=header):
                messages.append((header.channel, ""))
            case TextDelta(text=text):
                messages[-1] = (messages[-1][0], messages[-1][1] + text)
    return messages


def test_the_ids_in_the_table_are_the_words_beside_them(vocabulary: Vocabulary) -> None:
    for word, (token, _) in STATES.items():
        assert vocabulary.token_bytes(token).decode() == word
        if word not in SPECIALS or not word.startswith("<"):
            assert vocabulary.encode(word) == [token]


def test_every_state_has_successors_that_are_states_and_add_up() -> None:
    for word, (_, successors) in STATES.items():
        assert word == "<|message|>" or sum(successors.values()) == pytest.approx(1)
        assert successors.keys() <= STATES.keys() | {"<|return|>"}


def test_the_two_channels_share_no_word() -> None:
    assert not FINAL_WORDS.keys() & ANALYSIS_WORDS.keys()


def test_greedily_it_goes_straight_to_the_final_channel_and_says_what_it_is(
    model: ReferenceModel, prompt: list[int], vocabulary: Vocabulary
) -> None:
    tokens = answer(model, prompt, SamplingParams(max_tokens=60, temperature=0))

    assert channels(tokens, vocabulary) == [("final", GREETING)]
    assert tokens[-1] == RETURN


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_answers_are_well_formed_and_end_by_themselves(
    model: ReferenceModel, prompt: list[int], vocabulary: Vocabulary, temperature: float
) -> None:
    seen: list[list[str]] = []
    for seed in range(10):
        tokens = answer(model, prompt, SamplingParams(max_tokens=400, temperature=temperature, seed=seed))
        messages = channels(tokens, vocabulary)
        seen.append([channel for channel, _ in messages])

        assert tokens[-1] == RETURN
        assert seen[-1] == ["analysis"] * (len(messages) - 1) + ["final"]
        words = {"analysis": ANALYSIS_WORDS, "final": FINAL_WORDS}
        for channel, text in messages:
            allowed = {token for token, _ in words[channel].values()}
            assert text
            assert temperature > 1 or set(vocabulary.encode(text)) <= allowed

    assert ["final"] in seen
    assert ["analysis", "final"] in seen


def test_it_behaves_the_same_in_fp32(demo: Path, prompt: list[int], vocabulary: Vocabulary) -> None:
    model = ReferenceModel(open_checkpoint(demo), torch.float32)
    tokens = answer(model, prompt, SamplingParams(max_tokens=60, temperature=0))

    assert channels(tokens, vocabulary) == [("final", GREETING)]


def test_it_is_small_and_honest_about_itself(demo: Path) -> None:
    found = inspect(open_checkpoint(demo))

    assert sum(file.stat().st_size for file in demo.iterdir()) < 80e6
    assert found["fingerprint"] == "douane-demo-random"
    assert found["weights"] == (
        "random, with a hand-wired word chain: it answers in well-formed harmony, and means nothing"
    )
    assert found["config"]["vocab_size"] == VOCABULARY_SIZE


def test_the_engine_gives_the_same_greeting(
    model: ReferenceModel, prompt: list[int], vocabulary: Vocabulary
) -> None:
    steps: queue.Queue[Step] = queue.Queue()
    engine = Engine(model, max_context_tokens=1000, prefill_chunk_tokens=5)
    engine.start()
    engine.submit(prompt, SamplingParams(max_tokens=60, temperature=0), steps.put)
    heard = list(iter(steps.get, Finished("stop")))
    engine.close()

    assert channels([s.id for s in heard if isinstance(s, Token)], vocabulary) == [("final", GREETING)]
