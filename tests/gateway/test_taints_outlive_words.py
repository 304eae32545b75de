"""A conversation's labels outlive the vocabulary and the ceilings that they were recorded under."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.context import GatewayContext
from gateway.labels import Labels
from gateway.policy.bundle import Bundle
from gateway.store.base import Conversation
from gateway.taints import RememberedTaints
from tests.gateway.inprocess import chat, gateway, script
from tests.integration.bundle import bundle_with_keys


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return bundle_with_keys(tmp_path / "policies")


def stain(context: GatewayContext, labels: frozenset[str]) -> None:
    """Everything that the store has on record has carried `labels` too, as under an earlier bundle."""
    labelled = context.store._labelled["demo"]  # type: ignore[attr-defined]
    for mark in labelled.records:
        labelled.add(mark, labels)


def with_demo_ceiling(bundle: Bundle, ceiling: Labels) -> Bundle:
    tenant = bundle.tenants["demo"]
    caller = replace(tenant.caller, ceiling=ceiling)
    return replace(bundle, tenants={**bundle.tenants, "demo": replace(tenant, caller=caller)})


async def test_a_label_that_the_vocabulary_lost_means_the_ceiling_and_ends_the_guessing(
    tmp_path: Path, policies: Path
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)
        await chat("first").ask(context)
        stain(context, frozenset({"a-word-of-yesterday"}))
        second = chat("first", "answer", "second")
        async with asyncio.timeout(30):
            await second.ask(context)
        assert second.status == 200
        labels = engine.attempts[-1].permitted.facts.labels
        assert labels == context.policies.current.tenants["demo"].caller.ceiling
        # The lost word goes on with the conversation.
        third = chat("first", "answer", "second", "answer", "third")
        await third.ask(context)
        assert third.status == 200
        assert engine.attempts[-1].permitted.facts.labels == labels


@pytest.mark.parametrize("also", [frozenset(), frozenset({"a-word-of-yesterday"})])
async def test_a_label_above_a_lowered_ceiling_is_refused_also_beside_a_lost_word(
    tmp_path: Path, policies: Path, also: frozenset[str]
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)
        await chat("first").ask(context)
        stain(context, frozenset({"secret"}) | also)
        lowered = with_demo_ceiling(context.policies.current, Labels("confidential", frozenset()))
        context.policies.current = lowered
        second = chat("first", "answer", "second")
        async with asyncio.timeout(30):
            await second.ask(context)
        assert second.status == 403
        assert b"`secret` is above" in second.answer
        assert len(engine.attempts) == 1


async def test_a_label_above_a_lowered_ceiling_is_refused_also_in_an_unreadable_past(
    tmp_path: Path, policies: Path
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        script(context)
        await chat("first").ask(context)
        stain(context, frozenset({"secret"}))
        context.store._labelled["demo"].epoch = "r-of-now"  # type: ignore[attr-defined]
        context.policies.current = with_demo_ceiling(
            context.policies.current, Labels("confidential", frozenset())
        )
        second = chat("first", "answer", "second")
        async with asyncio.timeout(30):
            await second.ask(context)
        assert second.status == 403
        assert b"`secret` is above" in second.answer


def test_what_a_worker_remembers_is_the_union_of_all_reads() -> None:
    taints = RememberedTaints()
    taints.remember([b"a"], frozenset({"public"}))
    taints.remember([b"b"], frozenset({"personal"}))
    assert taints.recall(Conversation((b"c", b"a", b"b"), 0)) == {"public", "personal"}
