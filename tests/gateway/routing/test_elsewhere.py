"""A context that is too small, an answer that is withheld: told, or tried at the next planned place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from gateway import errors
from gateway.backends import base
from gateway.backends.base import Chunk, Refused
from gateway.backends.converse_answer import StreamTranslator
from tests.gateway.routing.scripted import (
    NAMES,
    UPSTREAM,
    USAGE,
    WORD,
    Batch,
    Run,
    all_that_can_run,
    answer,
    come_of,
)

ENGINE, FRANKFURT, MILAN = NAMES
ROLE = Chunk(b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}')
CUT = Chunk(b'{"choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}', "content_filter")
USED = Chunk(b'{"choices":[],"usage":{}}', None, USAGE)


def from_bedrock(stop_reason: str) -> Batch:
    """A stream of Bedrock's without content, as one batch."""
    translator = StreamTranslator("req", "gpt-oss-20b", 1)
    usage = {"inputTokens": USAGE.prompt_tokens, "outputTokens": USAGE.completion_tokens, "totalTokens": 10}
    return (
        *translator.translate("messageStart", {"role": "assistant"}),
        *translator.translate("messageStop", {"stopReason": stop_reason}),
        *translator.translate("metadata", {"usage": usage}),
    )


def too_long() -> Refused:
    return Refused("x", code="context_length_exceeded")


def filtered() -> Refused:
    return Refused("x", code="content_filter")


def run_with(**options: str) -> Run:
    return Run(options=dict(options))


@pytest.mark.parametrize("stream", [False, True])
async def test_what_does_not_fit_one_context_is_tried_at_the_next_place(stream: bool) -> None:
    run = run_with(on_context_window="next")
    run[ENGINE].faults = [too_long()]

    reached = await run.go(stream=stream)

    assert (reached.attempt.place.id, reached.kind) == (FRANKFURT, "context_window")
    assert run.story() == [(ENGINE, "first", "refused"), (FRANKFURT, "context_window", "answered")]
    assert run.health.state(ENGINE).failures == 0


async def test_places_whose_context_is_known_to_be_no_larger_are_left_out() -> None:
    run = run_with(on_context_window="next")
    run.context_tokens = {ENGINE: 8192, FRANKFURT: 8192, MILAN: 131_072}
    run[ENGINE].faults = [too_long()]

    assert (await run.go()).attempt.place.id == MILAN
    assert run[FRANKFURT].calls == 0


@pytest.mark.parametrize("bounds", [{}, {ENGINE: 8192}, {FRANKFURT: 8192}])
async def test_where_a_bound_is_not_known_the_place_is_tried(bounds: dict[str, int]) -> None:
    run = run_with(on_context_window="next")
    run.context_tokens = bounds
    run[ENGINE].faults = [too_long()]

    assert (await run.go()).attempt.place.id == FRANKFURT


async def test_a_request_that_fits_nowhere_is_told_so() -> None:
    run = run_with(on_context_window="next")
    for name in NAMES:
        run[name].faults = [too_long()]

    with pytest.raises(errors.ContextLengthExceeded):
        await run.go()
    assert run.kinds() == ["first", "context_window", "context_window"]


async def test_where_the_larger_place_is_down_the_request_may_come_again() -> None:
    run = run_with(on_context_window="next")
    run[ENGINE].faults = [too_long()]
    run[FRANKFURT].faults = [base.Unreachable("x")]
    run[MILAN].faults = [base.Unreachable("x")]

    with pytest.raises(errors.PermittedBackendUnavailable):
        await run.go()
    assert run.kinds() == ["first", "context_window", "fallback"]


@pytest.mark.parametrize("fault", [too_long, filtered])
async def test_a_place_that_was_withdrawn_meanwhile_is_not_tried_for_these_reasons_either(
    fault: Callable[[], Refused],
) -> None:
    run = run_with(on_context_window="next", on_content_filter="next")
    run.withdrawn = set(NAMES[1:])
    run[ENGINE].faults = [fault()]

    with pytest.raises((errors.ContextLengthExceeded, errors.UpstreamRefused)):
        await run.go()
    assert [run[name].calls for name in NAMES] == [1, 0, 0]
    assert [one.outcome for one in run.tried] == ["refused", "withdrawn", "withdrawn"]
    assert len(set(run.kinds()[1:])) == 1
    assert run.kinds()[1] in ("context_window", "content_filter")


@pytest.mark.parametrize(
    ("fault", "option", "error"),
    [
        (too_long, "on_content_filter", errors.ContextLengthExceeded),
        (filtered, "on_context_window", errors.UpstreamRefused),
        (lambda: Refused("x"), "on_context_window", errors.UpstreamRefused),
    ],
)
async def test_each_option_moves_on_for_its_own_reason_alone(
    fault: Callable[[], Refused], option: str, error: type[errors.DouaneError]
) -> None:
    run = run_with(**{option: "next"})
    run[ENGINE].faults = [fault()]

    with pytest.raises(error):
        await run.go()
    assert run.story() == [(ENGINE, "first", "refused")]


async def test_a_refusal_by_a_filter_is_tried_at_the_next_place() -> None:
    run = run_with(on_content_filter="next")
    run[ENGINE].faults = [filtered()]

    assert (await run.go()).kind == "content_filter"
    assert run.story() == [(ENGINE, "first", "refused"), (FRANKFURT, "content_filter", "answered")]


async def test_a_plain_answer_that_a_filter_cut_is_tried_elsewhere_and_what_it_used_is_known() -> None:
    run = run_with(on_content_filter="next")
    run[ENGINE].answer = answer("content_filter")

    assert (await run.go()).attempt.place.id == FRANKFURT
    assert run.story() == [(ENGINE, "first", "withheld"), (FRANKFURT, "content_filter", "answered")]
    assert (run.tried[0].usage, run.tried[0].upstream) == (USAGE, UPSTREAM)
    assert run.in_flight == {}
    assert run.health.state(ENGINE).failures == 0


@pytest.mark.parametrize(
    ("batches", "usage"),
    [
        ([(CUT, USED)], USAGE),
        ([(ROLE,), (CUT,), (USED,)], USAGE),
        ([(ROLE, CUT)], None),
        ([from_bedrock("content_filtered")], USAGE),
        ([from_bedrock("guardrail_intervened")], USAGE),
    ],
)
async def test_a_stream_that_a_filter_ends_before_any_content_is_tried_at_the_next_place(
    batches: Sequence[Batch], usage: base.Usage | None
) -> None:
    run = run_with(on_content_filter="next")
    run[ENGINE].batches = batches

    reached = await run.go(stream=True)

    assert reached.attempt.place.id == FRANKFURT
    assert run.story() == [(ENGINE, "first", "withheld"), (FRANKFURT, "content_filter", "answered")]
    assert run.tried[0].usage == usage
    assert run[ENGINE].streams[0].closed
    assert not run[FRANKFURT].streams[0].closed
    assert run.in_flight == {FRANKFURT: 1}


@pytest.mark.parametrize(
    "batches",
    [
        [(ROLE,), (Chunk(WORD),), (CUT, USED)],
        [(ROLE, Chunk(WORD), CUT, USED)],
        [(ROLE, Chunk(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', "stop"), USED)],
    ],
)
async def test_a_stream_with_content_stays_where_it_is_and_nothing_of_it_is_lost(
    batches: Sequence[Batch],
) -> None:
    run = run_with(on_content_filter="next")
    run[ENGINE].batches = batches

    reached = await run.go(stream=True)
    read = aiter(reached.answer)  # type: ignore[arg-type]
    assert [await anext(read) for _ in batches] == list(batches)
    with pytest.raises(base.Broken):
        await anext(read)
    assert run.story() == [(ENGINE, "first", "answered")]
    await reached.answer.aclose()  # type: ignore[union-attr]
    assert run[ENGINE].streams[0].closed


async def test_a_stream_that_breaks_before_any_content_is_a_fault_like_any_other() -> None:
    run = run_with(on_content_filter="next")
    run[ENGINE].batches = [(ROLE,)]

    assert (await run.go(stream=True)).attempt.place.id == FRANKFURT
    assert run.story() == [
        (ENGINE, "first", "broken"),
        (ENGINE, "retry", "broken"),
        (FRANKFURT, "fallback", "answered"),
    ]
    assert [one.closed for one in run[ENGINE].streams] == [True, True]


@pytest.mark.parametrize("stream", [False, True])
async def test_where_no_place_is_left_a_withheld_answer_is_told_as_it_is(stream: bool) -> None:
    run = run_with(on_content_filter="next")
    for name in NAMES:
        run[name].answer, run[name].batches = answer("content_filter"), [(CUT, USED)]

    reached = await run.go(stream=stream)

    assert reached.attempt.place.id == MILAN
    assert [one.outcome for one in run.tried] == ["withheld", "withheld", "answered"]


async def test_a_withheld_answer_waits_for_the_hedge_beside_it() -> None:
    run = Run(options={"hedge_after_s": 2.0, "on_content_filter": "next"}, attempted=NAMES[:2])
    run[ENGINE].takes_s, run[ENGINE].answer = 3.0, answer("content_filter")
    run[FRANKFURT].takes_s = 5.0
    going = await run.begin()
    for _ in range(4):
        await run.after(2.0)
    await all_that_can_run()

    assert come_of(going).attempt.place.id == FRANKFURT
    assert run.story() == [(ENGINE, "first", "withheld"), (FRANKFURT, "hedge", "answered")]


async def test_a_stream_that_never_has_content_is_given_up_in_the_time_of_a_first_byte() -> None:
    run = run_with(on_content_filter="next")
    run.first_byte_timeout_s = 0.01
    run[ENGINE].batches, run[ENGINE].silent = [(ROLE,)], True

    assert (await run.go(stream=True)).attempt.place.id == FRANKFURT
    assert run.outcomes()[0] == (ENGINE, "timed_out")
    assert run[ENGINE].streams[0].closed


async def test_a_client_that_leaves_while_the_first_content_is_waited_for_closes_the_stream() -> None:
    run = run_with(on_content_filter="next")
    run[ENGINE].batches, run[ENGINE].silent = [(ROLE,)], True
    going = await run.begin(stream=True)
    going.cancel()
    await asyncio.wait([going])

    assert going.cancelled()
    assert run[ENGINE].streams[0].closed
    assert run.outcomes() == [(ENGINE, "cancelled")]
    assert run.in_flight == {}
