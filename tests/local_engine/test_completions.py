"""Completions on raw text: every parameter, every form of prompt, and text that is only text."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from openai.resources.completions import Completions

from local_engine.completions import RawChoice
from local_engine.engine import Engine
from local_engine.errors import Refused
from local_engine.harmony.tokens import CHANNEL, END, MESSAGE, RETURN, START
from local_engine.raw import NEUTRAL, CompletionRequest, parse_completion_request
from local_engine.sampling import Logprobs
from local_engine.server import create_app
from local_engine.steps import Token
from local_engine.structure.request import Structures
from local_engine.text import Shown, joined
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import SECRET, ScriptedRunner, eventually, scripted_engine, scripted_service

MINIMAL: dict[str, Any] = {"model": "gpt-oss-20b", "prompt": "hi"}
CANARY = "Xyzzy-canary"


def parse(**changes: Any) -> CompletionRequest:
    """A minimal request with changes, through the whole parser."""
    return parse_completion_request(json.dumps(MINIMAL | changes).encode())


def refused(**changes: Any) -> tuple[str, str | None, str]:
    """Message, param and code of the refusal."""
    with pytest.raises(Refused) as refusal:
        parse(**changes)
    return str(refusal.value), refusal.value.param, refusal.value.code


def test_every_parameter_the_sdk_knows_is_known_here() -> None:
    own = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    known = inspect.signature(Completions.create).parameters.keys() - own

    assert known <= CompletionRequest.model_fields.keys() | NEUTRAL.keys()
    assert not CompletionRequest.model_fields.keys() & NEUTRAL.keys()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ["hi"]),
        (["hi", "you"], ["hi", "you"]),
        ([5, 200006], [[5, 200006]]),
        ([[5], [6, 7]], [[5], [6, 7]]),
    ],
)
def test_a_prompt_has_four_forms(prompt: Any, prompts: list[Any]) -> None:
    assert parse(prompt=prompt).prompts == prompts


WRONG_PROMPT = (
    "`prompt` must be text, token ids below 201088, or a list of 1 to 64 of either, none of them empty",
    "prompt",
    "unsupported_value",
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": None}, ("`prompt` is missing", "prompt", "missing_parameter")),
        ({"prompt": ""}, WRONG_PROMPT),
        ({"prompt": []}, WRONG_PROMPT),
        ({"prompt": [[]]}, WRONG_PROMPT),
        ({"prompt": [CANARY, ""]}, WRONG_PROMPT),
        ({"prompt": [CANARY, 5]}, WRONG_PROMPT),
        ({"prompt": [True]}, WRONG_PROMPT),
        ({"prompt": [201088]}, WRONG_PROMPT),
        ({"prompt": [-1]}, WRONG_PROMPT),
        ({"prompt": [CANARY] * 65}, WRONG_PROMPT),
        (
            {"best_of": 2},
            ("`best_of` is not supported by this engine: leave it out", "best_of", "unsupported_parameter"),
        ),
        (
            {"suffix": CANARY},
            ("`suffix` is not supported by this engine: leave it out", "suffix", "unsupported_parameter"),
        ),
        (
            {"logprobs": 6},
            ("`logprobs` is wrong: input should be less than or equal to 5", "logprobs", "invalid_value"),
        ),
        (
            {"echo": True, "logprobs": 0},
            (
                "`echo` with `logprobs` is not supported: this engine keeps no log-probabilities of prompts",
                "echo",
                "unsupported_value",
            ),
        ),
        ({"messages": []}, ("unknown parameter `messages`: leave it out", "messages", "unknown_parameter")),
        ({"stop": ["x"] * 5}, ("`stop` takes at most 4 strings", "stop", "invalid_value")),
    ],
)
def test_what_is_wrong_is_named_by_its_place(changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    assert refused(**changes) == expected


def test_special_tokens_are_hidden_and_a_character_is_never_halved(vocabulary: Vocabulary) -> None:
    choice = RawChoice(vocabulary, ())
    tokens = [*vocabulary.encode("a"), CHANNEL, *vocabulary.encode("𓂀"), MESSAGE, RETURN]
    shown = [part.text for token in tokens for part in choice.push(Token(0, token, None))]

    assert "".join(shown) == "a𓂀"
    assert [text for text in shown if text] == ["a", "𓂀"]
    assert choice.finish("stop") == ([Shown("")], "stop")
    assert choice.completion_tokens == len(tokens)


def test_half_a_character_at_the_end_is_left_out(vocabulary: Vocabulary) -> None:
    choice = RawChoice(vocabulary, ())
    first, *_ = vocabulary.encode("𓂀")

    assert joined(choice.push(Token(0, first, Logprobs(-1.0, ())))) == Shown("")
    assert choice.finish("length") == ([Shown("")], "length")


@dataclass(frozen=True, slots=True)
class Raw:
    """A client, and the engine and the model behind it."""

    client: httpx.AsyncClient
    engine: Engine
    runner: ScriptedRunner

    async def ask(self, prompt: Any, **more: Any) -> httpx.Response:
        """One completion."""
        body = {"model": "gpt-oss-20b", "prompt": prompt, **more}
        return await self.client.post("/v1/completions", json=body)


@pytest.fixture(scope="module")
def structures(vocabulary: Vocabulary) -> Structures:
    return Structures(vocabulary)


@pytest.fixture
async def raw(vocabulary: Vocabulary, structures: Structures) -> AsyncIterator[Raw]:
    async with serving(vocabulary, structures) as raw:
        yield raw


@asynccontextmanager
async def serving(vocabulary: Vocabulary, structures: Structures) -> AsyncIterator[Raw]:
    """A running application with room for eight choices."""
    engine = scripted_engine(vocabulary, max_running=8)
    runner = engine.runner
    assert isinstance(runner, ScriptedRunner)
    engine.start()
    app = create_app(scripted_service(vocabulary, structures, engine), SECRET)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as client:
        yield Raw(client, engine, runner)
    await asyncio.to_thread(engine.close)


async def test_a_completion_has_openais_whole_shape(raw: Raw) -> None:
    found = (await raw.ask("one two<|return|>")).json()

    assert found.pop("id").startswith("cmpl-")
    assert isinstance(found.pop("created"), int)
    assert found == {
        "object": "text_completion",
        "model": "gpt-oss-20b",
        "system_fingerprint": "scripted",
        "choices": [{"text": "one two", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": len(raw.runner.vocabulary.encode("one two<|return|>")),
            "completion_tokens": 3,
            "total_tokens": len(raw.runner.vocabulary.encode("one two<|return|>")) + 3,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_a_stream_says_the_same_in_pieces(raw: Raw) -> None:
    usage = {"include_usage": True}
    response = await raw.ask("one two<|return|>", stream=True, stream_options=usage, echo=True)
    *lines, end = response.text.split("\n\n")
    *chunks, counts, done = [line.removeprefix("data: ") for line in lines]
    parsed = [json.loads(chunk) for chunk in chunks]

    assert (done, end) == ("[DONE]", "")
    assert {chunk["object"] for chunk in parsed} == {"text_completion"}
    assert parsed[0]["choices"][0]["text"] == "one two<|return|>"
    assert "".join(chunk["choices"][0]["text"] for chunk in parsed[1:]) == "one two"
    assert [chunk["choices"][0]["finish_reason"] for chunk in parsed][-1] == "stop"
    assert json.loads(counts)["choices"] == []
    assert json.loads(counts)["usage"]["completion_tokens"] == 3


async def test_text_that_spells_special_tokens_is_text_and_ids_are_what_they_are(raw: Raw) -> None:
    raw.runner.spellings["x"] = [RETURN]
    await raw.ask("<|start|>user<|message|>x")
    await raw.ask([START, END, 5])
    spelled, given = raw.runner.prompts

    assert START not in spelled
    assert spelled == raw.runner.vocabulary.encode("<|start|>user<|message|>x")
    assert given == [START, END, 5]


@pytest.mark.parametrize("echo", [False, True])
async def test_a_character_that_the_prompt_began_is_whole_in_the_answer(raw: Raw, echo: bool) -> None:
    h, first, *rest = raw.runner.vocabulary.encode("h𓂀")
    raw.runner.spellings["h�"] = [*rest, RETURN]
    found = (await raw.ask([h, first], echo=echo)).json()["choices"][0]
    chunks = (await raw.ask([h, first], echo=echo, stream=True)).text.split("\n\n")[:-2]
    streamed = [json.loads(chunk.removeprefix("data: "))["choices"][0]["text"] for chunk in chunks]

    assert found["text"] == "".join(streamed) == ("h𓂀" if echo else "𓂀")


async def test_prompts_and_choices_are_numbered_prompt_by_prompt(raw: Raw) -> None:
    found = (await raw.ask(["a|||b", "c|||d"], n=2, echo=True, max_tokens=1)).json()

    assert [choice["text"] for choice in found["choices"]] == ["a|||ba", "a|||bb", "c|||dc", "c|||dd"]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert {choice["finish_reason"] for choice in found["choices"]} == {"length"}
    assert found["usage"]["completion_tokens"] == 4


async def test_sixteen_tokens_are_the_default(raw: Raw) -> None:
    found = (await raw.ask("w" + " w" * 40)).json()

    assert found["choices"][0] == {
        "text": "w" + " w" * 15,
        "index": 0,
        "logprobs": None,
        "finish_reason": "length",
    }


async def test_logprobs_have_the_older_shape(raw: Raw) -> None:
    one, two = raw.runner.vocabulary.encode("one two")
    other = raw.runner.vocabulary.token_bytes(one + 1).decode()
    found = (await raw.ask("one two!<|return|>", stop="!", logprobs=2)).json()["choices"][0]["logprobs"]

    assert found["tokens"] == ["one", " two"]
    assert found["token_logprobs"] == [0.0, 0.0]
    assert found["text_offset"] == [0, 3]
    assert found["top_logprobs"][0] == {"one": 0.0, other: -9999.0}
    assert two in raw.runner.prompts[0]


async def test_a_stop_string_is_cut_and_ends_its_choice_alone(raw: Raw) -> None:
    found = (await raw.ask("one STOP two|||all of it<|return|>", n=2, stop=[" STOP"])).json()

    assert [choice["text"] for choice in found["choices"]] == ["one", "all of it"]
    assert [choice["finish_reason"] for choice in found["choices"]] == ["stop", "stop"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"prompt": CANARY + " x" * 4096}, 400, "context_length_exceeded"),
        ({"max_tokens": 4096}, 400, "context_length_exceeded"),
        ({"model": CANARY}, 404, "model_not_found"),
        ({"temperature": 3}, 400, "invalid_value"),
        ({"prompt": [CANARY] * 11}, 400, "invalid_request"),
        ({"prompt": [CANARY] * 6, "n": 2}, 400, "invalid_request"),
        ({"prompt": f"<|start|>user<|message|>!{CANARY}"}, 500, "engine_fault"),
    ],
)
async def test_every_refusal_has_openais_shape_and_quotes_nothing(
    raw: Raw, changes: dict[str, Any], status: int, code: str
) -> None:
    response = await raw.ask(**({"prompt": CANARY} | changes))

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert CANARY not in response.text
    if code == "context_length_exceeded":
        assert response.json()["error"]["param"] == "prompt"


async def test_a_prompt_is_found_in_the_cache_under_its_own_salt_only(raw: Raw) -> None:
    async def cached(salt: str | None) -> int:
        headers = {} if salt is None else {"x-douane-cache-salt": salt}
        body = {"model": "gpt-oss-20b", "prompt": "w" + " w" * 40, "max_tokens": 1}
        found = (await raw.client.post("/v1/completions", json=body, headers=headers)).json()
        return int(found["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [await cached(salt) for salt in ("a", "b", None)] == [0, 0, 0]
    assert [await cached(salt) for salt in ("a", "b", None)] == [32, 32, 32]


async def test_a_request_that_is_refused_halfway_leaves_nothing_behind(raw: Raw) -> None:
    # Four of ten places are taken, so of eight prompts the seventh is refused.
    slow = f"@0.05 {'w' + ' w' * 20}"
    first = asyncio.create_task(raw.ask(slow, n=4))
    await eventually(lambda: raw.engine.load().running == 4)
    refused = await raw.ask([slow] * 8)
    answered = await first

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "engine_busy")
    assert [choice["finish_reason"] for choice in answered.json()["choices"]] == ["length"] * 4
    await eventually(lambda: raw.engine.load().running + raw.engine.load().waiting == 0)
    assert raw.engine.load().generated_tokens_total < 4 * 16 + 6 * 16
