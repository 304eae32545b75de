"""Whatever ends a request: one end on record, nothing reserved, no connection held, never a silent cut."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Upstream
from gateway.context import GatewayContext
from gateway.facts import Limits
from gateway.store.base import Entered
from tests.gateway.inprocess import chat, gateway, kinds, records, script, word
from tests.integration.bundle import bundle_with_keys

LIMITS = Limits(requests_per_minute=100, tokens_per_minute=100_000, max_concurrent=2)


def limit_demo(context: GatewayContext) -> None:
    bundle = context.policies.current
    tenant = bundle.tenants["demo"]
    limited = replace(tenant, caller=replace(tenant.caller, limits=LIMITS))
    context.policies.current = replace(bundle, tenants={**bundle.tenants, "demo": limited})


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[GatewayContext]:
    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies) as opened:
        limit_demo(opened)
        yield opened


def held(context: GatewayContext) -> int:
    """Reservations at work."""
    usages = context.store._usage.values()  # type: ignore[attr-defined]
    return sum(len(usage.held) for usage in usages)


def require_nothing_left(context: GatewayContext) -> None:
    assert kinds(context).count("begin") == kinds(context).count("end")
    assert held(context) == 0
    assert context.health.state("local-engine").in_flight == 0
    assert context.readiness.in_flight == 0


async def test_a_client_that_never_reads_and_leaves_before_the_first_byte_leaves_nothing_behind(
    context: GatewayContext,
) -> None:
    engine = script(context)
    client = chat("hello", stream=True)
    client.reads = asyncio.Event()
    asking = asyncio.create_task(client.ask(context))
    await asyncio.wait([asking], timeout=0.05)
    assert len(engine.streams) == 1
    assert client.sent == []
    client.gone.set()
    await asking
    assert engine.streams[0].closed
    assert records(context)[-1].fields["code"] == "client_gone"
    require_nothing_left(context)


async def test_a_stream_that_breaks_as_nobody_foresaw_ends_with_an_error_event(
    context: GatewayContext,
) -> None:
    engine = script(context, steps=((word("one "),), RuntimeError("the prompt")))
    client = chat("hello", stream=True)
    await client.ask(context)
    assert b'"internal_error"' in client.answer
    assert b"[DONE]" not in client.answer
    assert b"the prompt" not in client.answer
    assert engine.streams[0].closed
    ended = records(context)[-1].fields
    assert (ended["outcome"], ended["code"]) == ("incomplete", "internal_error")
    require_nothing_left(context)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_end_that_no_record_can_hold_still_settles_and_is_told(
    context: GatewayContext, stream: bool
) -> None:
    script(context, upstream=Upstream("127.0.0.1", None, "no text: \udce9", False))
    client = chat("hello", stream=stream)
    await client.ask(context)
    assert b'"internal_error"' in client.answer
    assert b"[DONE]" not in client.answer
    assert held(context) == 0
    assert context.health.state("local-engine").in_flight == 0
    assert kinds(context) == ["begin"], "what `douane audit verify` lists"


async def test_a_hang_up_while_no_record_can_be_written_is_only_a_hang_up(context: GatewayContext) -> None:
    async def forever() -> None:
        context.audit._closed = True  # type: ignore[attr-defined]
        client.gone.set()
        await asyncio.Event().wait()

    engine = script(context, steps=((word("one "),), forever))
    client = chat("hello", stream=True)
    await client.ask(context)
    assert engine.streams[0].closed
    assert held(context) == 0
    context.audit._closed = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_is_cut_off_while_it_settles_has_one_end(
    context: GatewayContext, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    script(context)
    settling = asyncio.Event()
    leave = context.store.leave

    async def slow_leave(leaving: Any) -> None:
        await leave(leaving)
        settling.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(context.store, "leave", slow_leave)
    client = chat("hello", stream=stream)
    asking = asyncio.create_task(client.ask(context))
    await settling.wait()
    asking.cancel()
    await asyncio.wait([asking])
    assert kinds(context) == ["begin", "end"]
    assert client.sent, "the client is told"
    require_nothing_left(context)


async def test_a_client_that_leaves_while_its_begin_is_being_synced_has_an_end(tmp_path: Path) -> None:
    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, audit_durability="synced") as context:
        limit_demo(context)
        engine = script(context)
        client = chat("hello")
        sync = context.audit._sync  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()

        def sync_while_the_client_leaves(descriptor: int) -> None:
            loop.call_soon_threadsafe(client.gone.set)
            loop_turned = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), loop)
            loop_turned.result(5)
            sync(descriptor)

        context.audit._sync = sync_while_the_client_leaves  # type: ignore[attr-defined]
        await client.ask(context)
        context.audit._sync = os.fdatasync  # type: ignore[attr-defined]
        assert engine.attempts == []
        assert kinds(context) == ["begin", "end"]
        assert records(context)[-1].fields["code"] == "client_gone"
        require_nothing_left(context)


async def test_an_entry_that_cannot_be_opened_is_no_way_around_the_labels_of_the_conversation(
    context: GatewayContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = script(context)
    await chat("hello").ask(context)
    values = context.store._values  # type: ignore[attr-defined]
    for key in [key for key in values if key[1].startswith("a:answer/")]:
        values[key] = replace(values[key], data=b"damaged")
    enter = context.store.enter
    entries = []

    async def enter_while_another_turn_taints(entry: Any) -> Entered:
        entries.append(entry)
        if len(entries) == 2:
            return Entered(frozenset({"secret"}), False, False, None, None)
        return await enter(entry)

    monkeypatch.setattr(context.store, "enter", enter_while_another_turn_taints)
    again = chat("hello")
    await again.ask(context)
    assert again.status == 200
    assert engine.attempts[-1].permitted.facts.labels.sensitivity == "secret"
    assert again.header("x-douane-cache") == "miss"
    require_nothing_left(context)
