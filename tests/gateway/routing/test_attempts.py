"""Trying in order: what is tried again, what is given up, and what never happens."""

from __future__ import annotations

import asyncio

import pytest

from gateway import errors
from gateway.backends import base
from gateway.backends.base import Answer, BackendFault
from gateway.openai import ChatRequest
from gateway.routing.attempt import Attempt
from gateway.routing.plan import Skipped
from tests.gateway.routing.scripted import NAMES, Run


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "tries", "counts"),
    [
        (base.Unreachable, 1, True),
        (base.TimedOut, 1, True),
        (base.Throttled, 2, False),
        (base.Saturated, 1, False),
        (base.NotReady, 3, False),
        (base.ServerFault, 2, True),
        (base.Broken, 2, True),
    ],
)
async def test_each_kind_of_fault_is_tried_again_as_its_table_says(
    kind: type[BackendFault], tries: int, counts: bool, stream: bool
) -> None:
    run = Run()
    run.backends["local-engine"].faults = [kind("x") for _ in range(9)]

    reached = await run.go(stream=stream)

    assert reached.attempt.place.id == "bedrock-frankfurt"
    assert run.backends["local-engine"].calls == tries == kind.retry_here + 1
    assert run.outcomes() == [("local-engine", kind.kind)] * tries + [("bedrock-frankfurt", "answered")]
    moved_on = "spill" if kind is base.Saturated else "fallback"
    assert run.kinds() == ["first", *["retry"] * (tries - 1), moved_on]
    assert reached.kind == moved_on
    assert run.health.state("local-engine").failures == (tries if counts else 0)
    assert run.health.state("local-engine").in_flight == 0
    assert run.health.state("bedrock-frankfurt").in_flight == (1 if stream else 0)
    assert run.backends["bedrock-milan"].calls == 0


async def test_a_second_try_that_answers_is_the_answer() -> None:
    run = Run()
    run.backends["local-engine"].faults = [base.ServerFault("x")]

    assert (await run.go()).answer is run["local-engine"].answer
    assert run.outcomes() == [("local-engine", "server_fault"), ("local-engine", "answered")]
    assert run.health.state("local-engine").failures == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (base.Refused("x"), errors.UpstreamRefused),
        (base.Refused("x", code="context_length_exceeded"), errors.ContextLengthExceeded),
        (base.Misconfigured("x"), errors.UpstreamMisconfigured),
    ],
)
async def test_what_another_place_would_refuse_too_is_not_tried_there(
    fault: BackendFault, error: type[errors.DouaneError]
) -> None:
    run = Run()
    run.backends["local-engine"].faults = [fault]

    with pytest.raises(error):
        await run.go()

    assert run.outcomes() == [("local-engine", fault.kind)]


async def test_nothing_switches_after_the_first_byte() -> None:
    """The stream is handed on as it is; that it breaks later is not a reason to ask anybody else."""
    run = Run()

    reached = await run.go(stream=True)
    with pytest.raises(base.Broken):
        async for _ in reached.answer:  # type: ignore[union-attr]
            pass

    assert run.outcomes() == [("local-engine", "answered")]
    assert [run.backends[name].calls for name in NAMES] == [1, 0, 0]


async def test_a_place_that_was_withdrawn_meanwhile_is_not_tried() -> None:
    run = Run(withdrawn={"bedrock-frankfurt"})
    run.backends["local-engine"].faults = [base.Unreachable("x")]

    reached = await run.go()

    assert reached.attempt.place.id == "bedrock-milan"
    assert run.outcomes() == [
        ("local-engine", "unreachable"),
        ("bedrock-frankfurt", "withdrawn"),
        ("bedrock-milan", "answered"),
    ]
    assert run.kinds() == ["first", "fallback", "fallback"]
    assert run.backends["bedrock-frankfurt"].calls == 0


async def test_a_retry_at_the_same_place_is_withdrawn_too() -> None:
    run = Run(withdrawn=set(NAMES[1:]))
    engine = run.backends["local-engine"]
    engine.faults = [base.ServerFault("x")]
    complete = engine.complete

    async def complete_and_withdraw(attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        run.withdrawn.add("local-engine")
        return await complete(attempt, chat, request_id)

    engine.complete = complete_and_withdraw  # type: ignore[method-assign]

    with pytest.raises(errors.PermittedBackendUnavailable):
        await run.go()

    assert engine.calls == 1
    assert run.outcomes()[0] == ("local-engine", "server_fault")
    assert run.kinds() == ["first", "retry", "fallback", "fallback"]
    assert {outcome for _, outcome in run.outcomes()[1:]} == {"withdrawn"}


async def test_a_cancelled_try_frees_its_place_and_says_so() -> None:
    run = Run()
    run.backends["local-engine"].faults = [asyncio.CancelledError()]

    with pytest.raises(asyncio.CancelledError):
        await run.go()

    assert run.outcomes() == [("local-engine", "cancelled")]
    assert run.health.state("local-engine").in_flight == 0
    assert run.health.state("local-engine").failures == 0


async def test_when_all_are_full_the_caller_is_told_to_come_back() -> None:
    run = Run()
    for name, retry_after_s in zip(NAMES, (9.0, 4.0, 7.0), strict=True):
        run.backends[name].faults = [base.Saturated("x", retry_after_s=retry_after_s)]

    with pytest.raises(errors.PermittedBackendSaturated) as raised:
        await run.go()

    assert raised.value.retry_after_s == 4.0


async def test_when_none_answers_the_caller_is_told_so() -> None:
    run = Run()
    for name in NAMES:
        run.backends[name].faults = [base.Unreachable("x")]

    with pytest.raises(errors.PermittedBackendUnavailable) as raised:
        await run.go()

    assert raised.value.retry_after_s is not None
    assert len(run.outcomes()) == 3


@pytest.mark.parametrize(
    ("skipped", "error"),
    [
        ((Skipped("local-engine", "unsupported", ("seed",)),), errors.UnsupportedParameter),
        (
            (Skipped("local-engine", "unsupported", ("seed",)), Skipped("x", "unconfigured")),
            errors.UnsupportedParameter,
        ),
        (
            (Skipped("local-engine", "unsupported", ("seed",)), Skipped("x", "unavailable")),
            errors.PermittedBackendUnavailable,
        ),
        ((Skipped("local-engine", "not_loaded"),), errors.PermittedBackendUnavailable),
        ((), errors.PermittedBackendUnavailable),
    ],
)
async def test_an_empty_plan_says_why(skipped: tuple[Skipped, ...], error: type[errors.DouaneError]) -> None:
    with pytest.raises(error) as raised:
        await Run(attempted=(), skipped=skipped).go()

    assert raised.value.param == ("seed" if error is errors.UnsupportedParameter else None)
