"""Hedges and fallbacks over a scripted engine and emulated regions: what each was sent, recorded and signed.

The gateway runs in this process, so that the time of a hedge is a clock that the test sets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import ManualClock
from gateway.context import GatewayContext
from gateway.facts import Limits
from gateway.receipts.delivery import find_receipt
from gateway.receipts.explain import explain
from gateway.receipts.verify import read_unverified
from gateway.testing.bedrock.faults import Fault
from tests.gateway.inprocess import Client, chat, gateway, records
from tests.integration.bundle import bundle_with_keys, without_examples
from tests.integration.gateway_process import until
from tests.integration.regions import ALL, EEA, Regions
from tests.integration.scripted_engine import SECRET, ScriptedEngine
from tests.integration.test_policy_reload import NO_CLOUD

AFTER_S = 5.0
LIMITS = Limits(tokens_per_minute=1_000_000, usd_per_day=100.0)
FULL = {"message": "full", "code": "x"}
TOO_LONG = {"message": "too long", "code": "context_length_exceeded", "param": "messages"}
FILTERED = {"message": "no", "code": "content_filter"}
OpenGateway = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, script: ScriptedEngine, regions: Regions) -> OpenGateway:
    """Opens a gateway whose route for everyone has the options given, and a clock that stands still."""

    @asynccontextmanager
    async def open_one(hop: str = "", **options: Any) -> AsyncIterator[GatewayContext]:
        policies = bundle_with_keys(tmp_path / "policies")
        without_examples(policies)
        lines = "".join(f"    {key}: {value}\n" for key, value in options.items())
        whole = (policies / "routes.yaml").read_text()
        before, everyone = whole.split("  - id: everyone\n")
        everyone = everyone.replace("place: local-engine,", f"place: local-engine, {hop}")
        (policies / "routes.yaml").write_text(f"{before}  - id: everyone\n{everyone.rstrip()}\n{lines}")
        async with gateway(
            tmp_path / "state", policies, bedrock="emulator", emulator_urls=regions.urls,
            engine_url=script.url, engine_secret=SECRET, cache_ttl_s=0,
        ) as context:  # fmt: skip
            bundle = context.policies.current
            demo = bundle.tenants["demo"]
            limited = replace(demo, caller=replace(demo.caller, limits=LIMITS))
            context.policies.current = replace(bundle, tenants={**bundle.tenants, "demo": limited})
            yield replace(context, clock=ManualClock())

    return open_one


def clock_of(context: GatewayContext) -> ManualClock:
    assert isinstance(context.clock, ManualClock)
    return context.clock


async def waiting_at_the_engine(
    context: GatewayContext, script: ScriptedEngine, client: Client
) -> asyncio.Task[None]:
    """The request, sent to an engine that says nothing."""
    script.free.clear()
    asking = asyncio.create_task(client.ask(context))
    assert await asyncio.to_thread(script.started.wait, 40)
    return asking


async def settled(context: GatewayContext, turns: int = 50) -> None:
    """Returns once nobody has waited for the clock for so many turns of the event loop: whatever was due has
    happened. Without it the engine's answer may come in the same turn as the hedge, and count first."""
    quiet = 0
    while quiet < turns:
        await asyncio.sleep(0)
        quiet = 0 if clock_of(context).sleepers else quiet + 1


def tries(context: GatewayContext) -> list[tuple[str, str, str]]:
    """Of the last request, as its end tells."""
    return [(one["place"], one["kind"], one["outcome"]) for one in records(context)[-1].fields["attempts"]]


def signed(client: Client) -> list[tuple[str, str | None, str]]:
    """The same, as its receipt tells."""
    receipt = read_unverified(jws_of(client)).receipt
    return [(one.place, one.reason, one.outcome) for one in receipt.attempts]


def jws_of(client: Client) -> str:
    return client.header("x-douane-receipt") or find_receipt(client.answer)


def used(context: GatewayContext) -> tuple[int, float]:
    """Tokens and 10⁻⁹ USD charged to the demo tenant's keys; nothing is held any more."""
    usages = list(context.store._usage.values())  # type: ignore[attr-defined]
    assert [usage.held for usage in usages if usage.held] == []
    return (
        sum(step.tokens for usage in usages for step in usage.steps),
        sum(usage.usd_nano for usage in usages),
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_where_the_engine_is_silent_a_region_answers_and_the_engine_is_hung_up_on(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions, stream: bool
) -> None:
    async with opened(hedge_after_s=AFTER_S) as context:
        client, free = chat("hello", stream=stream), script.free
        asking = await waiting_at_the_engine(context, script, client)
        assert regions.touched() == set()
        clock_of(context).advance(AFTER_S)
        await asking
        assert await asyncio.to_thread(script.hung_up.wait, 40)
        free.set()

        assert client.status == 200
        place = client.header("x-douane-backend")
        expected = [("local-engine", "first", "outrun"), (place, "hedge", "answered")]
        assert tries(context) == signed(client) == expected
        assert sum(regions.received().values()) == 1
        assert regions.touched() <= set(EEA)
        assert context.health.state("local-engine").in_flight == 0
        assert context.metrics.attempts.labels(place, "hedge", "answered")._value.get() == 1
        told = {row.claim: row for row in explain(read_unverified(jws_of(client)))}
        assert told["attempts[1]"].meaning == (
            "another place was first, and this call was cancelled; its operator may bill it all the same"
        )
        assert told["attempts[2].reason"].value == "hedge"


async def test_a_hedge_whose_place_a_new_bundle_forbids_is_not_made(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions, tmp_path: Path
) -> None:
    """The bundle comes into force after the plan was made, and before the hedge is due."""
    async with opened(hedge_after_s=AFTER_S) as context:
        client, free = chat("hello"), script.free
        asking = await waiting_at_the_engine(context, script, client)
        (tmp_path / "policies" / "residency" / "50-new.yaml").write_text(NO_CLOUD)
        assert await context.policies.reload()
        clock_of(context).advance(AFTER_S)
        await settled(context)
        free.set()
        await asking

        assert client.status == 200
        assert regions.touched() == set()
        place, *others = sorted(tries(context), key=lambda one: one[0] != "local-engine")
        assert place == ("local-engine", "first", "answered")
        assert {(kind, outcome) for _, kind, outcome in others} == {("hedge", "withdrawn")}
        assert sorted(signed(client)) == sorted(tries(context))


async def test_what_may_not_leave_is_not_hedged(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions
) -> None:
    async with opened(hedge_after_s=AFTER_S) as context:
        client, free = chat("hello", labels="secret"), script.free
        asking = await waiting_at_the_engine(context, script, client)
        clock_of(context).advance(100 * AFTER_S)
        free.set()
        await asking

        assert client.status == 200
        assert tries(context) == [("local-engine", "first", "answered")]
        assert regions.touched() == set()


async def test_a_caller_who_hangs_up_is_told_of_to_both(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions
) -> None:
    async with opened(hedge_after_s=AFTER_S) as context:
        regions.give(ALL, Fault(kind="stall", delay_s=60, times=None))
        client, free = chat("hello"), script.free
        asking = await waiting_at_the_engine(context, script, client)
        clock_of(context).advance(AFTER_S)
        await asyncio.to_thread(until, regions.received, "a region is asked")
        client.gone.set()
        await asking
        assert await asyncio.to_thread(script.hung_up.wait, 40)
        await asyncio.to_thread(until, regions.hangups, "the region sees that the caller hung up")
        free.set()

        assert {(kind, outcome) for _, kind, outcome in tries(context)} == {
            ("first", "cancelled"),
            ("hedge", "cancelled"),
        }
        assert records(context)[-1].fields["code"] == "client_gone"
        assert {state.in_flight for state in context.health.states.values()} == {0}
        emulated = [one.get("emulated") for one in records(context)[-1].fields["attempts"]]
        assert emulated == [False, True]
        most_tokens = len(client.body) // 3 + 1 + 4096  # no bound on the answer was given
        assert used(context)[0] == 2 * most_tokens


async def test_a_call_that_was_outrun_is_charged_at_the_most_that_it_should_use(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions
) -> None:
    """The engine is full, the first region is silent, and a second one answers."""
    async with opened(hedge_after_s=AFTER_S) as context:
        script.status, script.error = 429, FULL
        regions.give(EEA, Fault(kind="stall", delay_s=60, times=None))
        client = chat("hello", max_completion_tokens=1000)
        asking = asyncio.create_task(client.ask(context))
        await asyncio.to_thread(until, regions.received, "a region is asked")
        for region in set(EEA) - set(regions.received()):
            regions.emulators[region].faults.clear()
        held = sum(one.tokens for usage in context.store._usage.values() for one in usage.held.values())
        clock_of(context).advance(AFTER_S)
        await asking

        end = records(context)[-1].fields
        assert [one["outcome"] for one in end["attempts"]] == ["saturated", "outrun", "answered"]
        prompt_tokens = len(client.body) // 3 + 1
        assert held == 2 * (prompt_tokens + 1000)
        usage = end["usage"]
        tokens, usd_nano = used(context)
        assert tokens == prompt_tokens + 1000 + usage["prompt_tokens"] + usage["completion_tokens"]
        places = context.policies.current.places
        outrun, answered = (places[one["place"]] for one in end["attempts"][1:])
        most = context.prices.estimate_usd(outrun, "gpt-oss-20b", prompt_tokens, 1000)
        told = context.prices.estimate_usd(
            answered, "gpt-oss-20b", usage["prompt_tokens"], usage["completion_tokens"]
        )
        assert usd_nano == end["cost_usd_nano"] == round((most + told) * 1e9)


async def test_without_hedging_one_call_is_reserved(opened: OpenGateway, script: ScriptedEngine) -> None:
    async with opened() as context:
        client, free = chat("hello", max_completion_tokens=1000), script.free
        asking = await waiting_at_the_engine(context, script, client)
        held = sum(one.tokens for usage in context.store._usage.values() for one in usage.held.values())
        free.set()
        await asking
        assert held == len(client.body) // 3 + 1 + 1000


@pytest.mark.parametrize("stream", [False, True])
async def test_what_does_not_fit_the_engine_goes_to_a_larger_context_where_that_is_permitted(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions, stream: bool
) -> None:
    async with opened("context_tokens: 8192,", on_context_window="next") as context:
        script.status, script.error = 400, TOO_LONG
        client = chat("a long story", labels="personal", stream=stream)
        await client.ask(context)

        assert client.status == 200
        place = client.header("x-douane-backend")
        expected = [("local-engine", "first", "refused"), (place, "context_window", "answered")]
        assert tries(context) == signed(client) == expected
        assert regions.touched() <= set(EEA)


@pytest.mark.parametrize(("labels", "option"), [("secret", "next"), ("public", "refuse")])
async def test_and_is_refused_where_it_is_not_permitted_or_the_route_says_so(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions, labels: str, option: str
) -> None:
    async with opened(on_context_window=option) as context:
        script.status, script.error = 400, TOO_LONG
        client = chat("a long story", labels=labels)
        await client.ask(context)

        assert client.status == 400
        assert json.loads(client.answer)["error"]["code"] == "context_length_exceeded"
        assert tries(context) == [("local-engine", "first", "refused")]
        assert regions.touched() == set()


async def test_what_a_filter_refuses_goes_to_the_next_permitted_place(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions
) -> None:
    async with opened(on_content_filter="next") as context:
        script.status, script.error = 400, FILTERED
        client = chat("hello", labels="personal")
        await client.ask(context)

        place = client.header("x-douane-backend")
        expected = [("local-engine", "first", "refused"), (place, "content_filter", "answered")]
        assert tries(context) == signed(client) == expected
        assert regions.touched() <= set(EEA)


GUARDRAIL = "[[silent]] [[stop guardrail_intervened]]"


async def test_an_answer_that_bedrocks_guardrail_withholds_is_tried_elsewhere_paid_for_and_at_last_told(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions
) -> None:
    async with opened(on_content_filter="next") as context:
        script.status, script.error = 429, FULL
        client = chat(GUARDRAIL, labels="personal")
        await client.ask(context)

        assert client.status == 200
        assert json.loads(client.answer)["choices"][0]["finish_reason"] == "content_filter"
        assert [(kind, outcome) for _, kind, outcome in tries(context)] == [
            ("first", "saturated"),
            ("spill", "withheld"),
            ("content_filter", "withheld"),
            ("content_filter", "answered"),
        ]
        assert signed(client) == tries(context)
        assert regions.touched() <= set(EEA)
        assert sum(regions.received().values()) == 3
        usage = records(context)[-1].fields["usage"]
        # Each region counts its own words, of which a name or two differ in number.
        assert used(context)[0] >= 3 * usage["prompt_tokens"] + usage["completion_tokens"]


async def test_a_stream_of_which_something_was_said_stays_where_it_is_when_a_guardrail_ends_it(
    opened: OpenGateway, script: ScriptedEngine, regions: Regions
) -> None:
    async with opened(on_content_filter="next") as context:
        script.status, script.error = 429, FULL
        client = chat(GUARDRAIL, labels="personal", stream=True)
        await client.ask(context)

        assert b'"finish_reason":"content_filter"' in client.answer
        assert [outcome for _, _, outcome in tries(context)] == ["saturated", "answered"]
        assert sum(regions.received().values()) == 1
