"""Every text that a backend would be sent is read, once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.detect.detectors import Detectors
from gateway.detect.rules import DetectorRules
from gateway.facts import Caller
from gateway.openai import parse_chat
from gateway.policy.load import compile_files
from gateway.policy.source.directory import read_directory

BUNDLE = compile_files(read_directory(Path(__file__).parents[2] / "policies")).bundle
CALLER = BUNDLE.tenants["demo"].caller
MAIL = "ada@example.org"


class Counting:
    """Rules that count the texts which are read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def rules(self, **changes: Any) -> DetectorRules:
        assert BUNDLE.detectors is not None
        return replace(BUNDLE.detectors, scanner=self, **changes)  # type: ignore[arg-type]

    @property
    def wanted(self) -> frozenset[str]:
        assert BUNDLE.detectors is not None
        return BUNDLE.detectors.scanner.wanted

    def scan(self, text: str, region: str, budget: Any) -> Any:
        assert BUNDLE.detectors is not None
        self.texts.append(text)
        return BUNDLE.detectors.scanner.scan(text, region, budget)


async def kinds(
    detectors: Detectors, rules: DetectorRules | None, caller: Caller = CALLER, **fields: Any
) -> set[str]:
    body = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "hello"}], **fields}
    return set(await detectors.kinds(parse_chat(json.dumps(body).encode()), caller, rules))


def call(arguments: str) -> list[dict[str, Any]]:
    return [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]


def tool(**function: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", **function}}]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": role, "content": MAIL}]}
        for role in ("user", "system", "developer", "assistant")
    ]
    + [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": MAIL}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "ada@exam"},
                                                   {"type": "text", "text": "ple.org"}]}]},
        {"messages": [{"role": "user", "content": "x", "name": MAIL}]},
        {"messages": [{"role": "assistant", "refusal": MAIL}]},
        {"messages": [{"role": "assistant", "content": "x", "reasoning": MAIL}]},
        {"messages": [{"role": "assistant", "content": "x", "reasoning_content": MAIL}]},
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": MAIL}]},
        {"messages": [{"role": "tool", "tool_call_id": MAIL, "content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": call(json.dumps({"to": MAIL}))}]},
        {"messages": [{"role": "assistant", "tool_calls": call('{"to":"ada\\u0040example.org"}')}]},
        {"tools": tool(description=MAIL)},
        {"tools": tool(parameters={"type": "object", "properties": {"a": {"enum": [MAIL]}}})},
        {"tools": tool(parameters={"type": "object", "properties": {MAIL: {}}})},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "description": MAIL}}},
        {"stop": [MAIL]},
    ],
)  # fmt: skip
async def test_whatever_reaches_a_backend_is_read(fields: dict[str, Any]) -> None:
    assert await kinds(Detectors(), BUNDLE.detectors, **fields) == {"email"}


async def test_without_detectors_nothing_is_read() -> None:
    assert await kinds(Detectors(), None, stop=[MAIL]) == set()


async def test_a_text_is_read_once_by_a_worker_and_still_labels_the_next_request() -> None:
    detectors, counting = Detectors(), Counting()
    rules = counting.rules()
    turn = [{"role": "user", "content": MAIL}]

    assert await kinds(detectors, rules, messages=turn) == {"email"}
    more = [*turn, {"role": "assistant", "content": "noted"}, {"role": "user", "content": "and?"}]
    assert await kinds(detectors, rules, messages=more) == {"email"}
    assert counting.texts == [MAIL, "noted", "and?"]


async def test_what_is_known_is_known_for_one_tenant_under_one_revision() -> None:
    detectors, counting = Detectors(), Counting()
    rules = counting.rules()
    for changed in (rules, rules, counting.rules(revision="other")):
        await kinds(detectors, changed)
    await kinds(detectors, rules, BUNDLE.tenants["acme-de"].caller)

    assert counting.texts == ["hello"] * 3


async def test_no_more_is_remembered_than_there_is_room_for() -> None:
    detectors, counting = Detectors(size_max=2), Counting()
    for text in ("a", "b", "c", "a"):
        await kinds(detectors, counting.rules(), messages=[{"role": "user", "content": text}])

    assert counting.texts == ["a", "b", "c", "a"]
    assert all(isinstance(key, bytes) and len(key) == 16 for key in detectors._known)


async def test_a_text_over_the_limit_counts_as_everything_and_is_not_read() -> None:
    counting = Counting()
    rules = counting.rules(text_bytes_max=1024)
    long = [{"role": "user", "content": "é" * 600}]

    assert await kinds(Detectors(), rules, messages=long) == rules.everything("demo")
    assert counting.texts == []


async def test_a_text_that_is_too_dense_counts_as_everything() -> None:
    rules = BUNDLE.detectors
    assert rules is not None
    dense = [{"role": "user", "content": "4111 1111 1111 1112 " * 20_001}]

    assert await kinds(Detectors(), rules, messages=dense) == rules.everything("demo")
