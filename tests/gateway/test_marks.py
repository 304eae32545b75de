"""What of an exchange is marked: however it ends, and as the bundle says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Chunk
from gateway.context import GatewayContext
from gateway.policy.load import load_bundle
from gateway.policy.problems import PolicyInvalid
from tests.gateway.inprocess import Client, chat, end, gateway, script, word
from tests.integration.bundle import bundle_with_keys, edit


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return bundle_with_keys(tmp_path / "policies")


@pytest.fixture
async def context(tmp_path: Path, policies: Path) -> AsyncIterator[GatewayContext]:
    async with gateway(tmp_path / "state", policies, cache_ttl_s=0) as opened:
        yield opened


async def carried(context: GatewayContext, text: str) -> tuple[str, ...]:
    """The labels that a lone message with this text is judged with, at a worker that remembers nothing."""
    context.taints._labels.clear()
    engine = script(context)
    client = chat(text)
    await client.ask(context)
    assert client.status == 200
    return engine.attempts[-1].permitted.facts.labels.names()


def secretly(*texts: str, **fields: Any) -> Client:
    return chat(*texts, labels="secret", **fields)


async def test_an_answer_is_marked_where_nothing_may_be_cached(context: GatewayContext) -> None:
    script(context, text="the answer")
    await secretly("a question").ask(context)
    assert await carried(context, "the answer") == ("secret",)
    assert await carried(context, "a question") == ("secret",)
    assert await carried(context, "another answer") == ("public",)


async def test_a_stream_is_marked_as_it_is_put_together(context: GatewayContext) -> None:
    script(context)
    await secretly("a question", stream=True).ask(context)
    assert await carried(context, "one two") == ("secret",)
    assert await carried(context, "one") == ("public",)


async def test_what_was_told_of_a_stream_that_broke_is_marked(context: GatewayContext) -> None:
    script(context, steps=((word("one "),), (word("two "),), RuntimeError()))
    await secretly("a question", stream=True).ask(context)
    assert await carried(context, "one two") == ("secret",)
    assert await carried(context, "a question") == ("secret",)


async def test_what_a_client_asked_that_hung_up_is_marked(context: GatewayContext) -> None:
    async def leave() -> None:
        client.gone.set()
        await asyncio.Event().wait()

    script(context, steps=((word("one "),), leave))
    client = secretly("a question", stream=True)
    await client.ask(context)
    assert await carried(context, "a question") == ("secret",)
    assert await carried(context, "one") == ("secret",)


async def test_what_was_refused_after_it_entered_is_marked(context: GatewayContext) -> None:
    async def fail() -> None:
        raise RuntimeError

    script(context, before=fail)
    client = secretly("a question")
    await client.ask(context)
    assert client.status == 500
    assert await carried(context, "a question") == ("secret",)


@pytest.mark.parametrize("content", [5, ["x"], {"a": 1}])
async def test_an_answer_that_no_request_can_hold_is_told_as_it_came(
    context: GatewayContext, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chunk = Chunk(word("x").data.replace(b'"x"', str(content).replace("'", '"').encode(), 2))
    script(context, steps=((chunk, word("", "stop"), end()),))
    client = secretly("a question", stream=True)
    await client.ask(context)
    assert client.answer.endswith(b"data: [DONE]\n\n")
    assert "unmarked_answer" in [record.getMessage() for record in caplog.records]
    assert await carried(context, "a question") == ("secret",)


async def test_a_bundle_may_leave_short_messages_out(tmp_path: Path, policies: Path) -> None:
    edit(policies / "bundle.yaml", "serial: 1 ", "taint: {messages_of_at_least_bytes: 12}\nserial: 1 ")
    async with gateway(tmp_path / "state", policies) as context:
        script(context, text="yes")
        await secretly("one, two, three", "no", "go on").ask(context)
        assert [await carried(context, text) for text in ("no", "go on", "yes")] == [("public",)] * 3
        assert await carried(context, "one, two, three") == ("secret",)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("taint: {messages_of_at_least: 12}", "messages_of_at_least_bytes"),
        ("taint: {messages_of_at_least_bytes: 0}", "greater than or equal to 1"),
        ("taint: {messages_of_at_least_bytes: many}", "is not a whole number"),
    ],
)
def test_a_bound_that_makes_no_sense_does_not_load(policies: Path, written: str, said: str) -> None:
    edit(policies / "bundle.yaml", "serial: 1 ", f"{written}\nserial: 1 ")
    with pytest.raises(PolicyInvalid) as refused:
        load_bundle(policies)
    assert said in str(refused.value)


def test_every_message_counts_unless_a_bundle_says_otherwise(policies: Path) -> None:
    assert load_bundle(policies).marked_from_bytes == 0
