"""A machine whose clock is wrong still signs for the right time, and nothing else is moved by it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as some

from gateway.backends.base import Misconfigured
from gateway.backends.bedrock import BedrockBackend
from gateway.backends.endpoint import Endpoint
from gateway.backends.signing import SigV4AuthAt, SigV4Signer
from gateway.backends.skew import BELIEVED_UP_TO_S, TRUSTED_FROM_S, Skew, Skews
from gateway.metrics import Metrics
from gateway.testing.bedrock.faults import Fault
from gateway.testing.bedrock.ledger import Received
from gateway.testing.bedrock.server import Running
from gateway.testing.bedrock.signature import Keys
from tests.backends.support import attempt, bedrock_place, chat, emulator_signer

NOON = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
Told = list[tuple[str, float]]


def date(moment: datetime) -> str:
    """As a server writes it: in whole seconds, the rest cut off."""
    return format_datetime(moment, usegmt=True)


def watched(correction_s: float = 0.0) -> tuple[Skew, Told]:
    told: Told = []
    return Skew("eu-central-1", lambda region, skew_s: told.append((region, skew_s)), correction_s), told


@given(
    skew_s=some.floats(-80_000, 80_000),
    out_s=some.floats(0, 300),
    back_s=some.floats(0, 300),
    fraction_s=some.floats(0, 0.999),
)
def test_one_answer_leaves_the_signing_time_no_further_off_than_it_took(
    skew_s: float, out_s: float, back_s: float, fraction_s: float
) -> None:
    """Whatever the way there and back took, rounding included, and however wrong the clock was."""
    skew, told = watched()
    theirs = NOON + timedelta(seconds=out_s + fraction_s)  # when the answer was written, by the host
    ours = theirs - timedelta(seconds=skew_s) + timedelta(seconds=back_s)  # when it came, by this machine

    skew.observe(date(theirs), ours, out_s + back_s)

    assert abs(skew.correction_s - skew_s) <= out_s + back_s + 1 + TRUSTED_FROM_S + 1e-3
    assert len(told) <= 1
    skew.observe(date(theirs), ours, out_s + back_s)
    assert len(told) <= 1, "the same answer again changes nothing"


@given(
    out_s=some.floats(0, 600), back_s=some.floats(0, 600), fraction_s=some.floats(0, 0.999),
    skew_s=some.floats(-TRUSTED_FROM_S + 0.01, TRUSTED_FROM_S - 0.01),
)  # fmt: skip
def test_a_clock_that_is_right_is_never_corrected(
    out_s: float, back_s: float, fraction_s: float, skew_s: float
) -> None:
    """Not by a slow model, a slow way, a busy event loop or a date in whole seconds."""
    skew, told = watched()
    theirs = NOON + timedelta(seconds=out_s + fraction_s)

    skew.observe(date(theirs), theirs + timedelta(seconds=back_s - skew_s), out_s + back_s)

    assert (skew.correction_s, told) == (0.0, [])


@pytest.mark.parametrize("skew_s", [-600.0, -3.0, 3.0, 600.0, 86_000.0])
def test_a_wrong_clock_is_told_once_and_a_clock_put_right_too(skew_s: float) -> None:
    skew, told = watched()

    def answer(number: int, off_s: float) -> None:
        theirs = NOON + timedelta(seconds=number * 0.7)
        skew.observe(date(theirs), theirs - timedelta(seconds=off_s), 0.05)

    for number in range(20):
        answer(number, skew_s)
    assert len(told) == 1
    assert told[0][0] == "eu-central-1"
    assert abs(told[0][1] - skew_s) <= 1.05
    assert abs((skew.corrected(NOON) - NOON).total_seconds() - skew_s) <= 1.05

    for number in range(20, 40):
        answer(number, 0.0)
    assert [skew_s for _, skew_s in told[1:]] == [0.0]
    assert skew.corrected(NOON) == NOON


NO_DATES = (None, "", "yesterday", "Mon, 99 Jun 2026 12:00:00 GMT", "x" * 100_000, "\udce9", "0")


@pytest.mark.parametrize("text", NO_DATES, ids=lambda text: repr(text)[:20])
def test_what_is_no_date_changes_nothing(text: str | None) -> None:
    skew, told = watched(-600.0)

    skew.observe(text, NOON, 0.1)

    assert (skew.correction_s, told) == (-600.0, [])


def test_an_answer_from_another_day_is_not_believed() -> None:
    skew, told = watched()

    skew.observe(date(NOON), NOON + timedelta(seconds=BELIEVED_UP_TO_S + 5), 0.1)

    assert (skew.correction_s, told) == (0.0, [])


def test_the_signature_is_botocores_own_to_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ReadOnlyCredentials("AKIDEXAMPLE", "a secret", "a token")
    made = []
    for sign in (
        SigV4Auth(keys, "bedrock", "eu-central-1"),
        SigV4AuthAt(keys, "eu-central-1", NOON),
    ):
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOON.replace(tzinfo=None))
        headers = {"Host": "h", "Content-Type": "application/json", "Authorization": "of an earlier try"}
        request = AWSRequest("POST", "https://h/model/a%3A0/converse", headers, b"{}")
        sign.add_auth(request)
        made.append(dict(request.headers.items()))

    assert made[0] == made[1]
    assert made[0]["X-Amz-Date"] == "20260601T120000Z"
    assert "20260601/eu-central-1/bedrock/aws4_request" in made[0]["Authorization"]


def backend_of(
    http: aiohttp.ClientSession, frankfurt: Running, metrics: Metrics, keys: Keys | None = None
) -> tuple[BedrockBackend, Skews]:
    """As `Backends` builds it, over an emulated region."""
    skews = Skews(metrics)
    endpoint = Endpoint(frankfurt.url, emulated=True)
    skew = skews.of(endpoint.host, "eu-central-1")
    credentials = emulator_signer(keys=keys).credentials
    backend = BedrockBackend(
        bedrock_place(), http, SigV4Signer(credentials, "eu-central-1", skew), endpoint=endpoint, skew=skew,
        retried=lambda: skews.retried("eu-central-1"),
    )  # fmt: skip
    return backend, skews


async def complete(backend: BedrockBackend) -> str:
    answer = await backend.complete(attempt(backend.place), chat("what time is it"), "req_1")
    return str(answer.body["choices"][0]["message"]["content"])


async def stream(backend: BedrockBackend) -> str:
    opened = await backend.stream(attempt(backend.place), chat("what time is it"), "req_1")
    chunks = [chunk.data async for batch in opened for chunk in batch]
    await opened.aclose()
    return b"".join(chunks).decode()


def statuses(frankfurt: Running) -> list[tuple[int, str | None]]:
    entries = frankfurt.emulator.ledger.entries
    return [(one.status, one.error) for one in entries if isinstance(one, Received)]


def sample(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"region": "eu-central-1"})


REFUSED = (403, "InvalidSignatureException")


@pytest.mark.parametrize("call", [complete, stream])
@pytest.mark.parametrize("offset_s", [-600.0, 600.0])
async def test_a_region_ten_minutes_off_refuses_once_and_is_then_signed_for_rightly(
    http: aiohttp.ClientSession,
    frankfurt: Running,
    caplog: pytest.LogCaptureFixture,
    call: Callable[[BedrockBackend], object],
    offset_s: float,
) -> None:
    metrics = Metrics()
    backend, skews = backend_of(http, frankfurt, metrics)
    frankfurt.emulator.faults.add(Fault(kind="wrong_time", offset_s=offset_s, times=None))
    assert sample(metrics, "douane_clock_skew_seconds") == 0

    for _ in range(3):
        assert await (complete if call is complete else stream)(backend)

    assert statuses(frankfurt) == [REFUSED, (200, None), (200, None), (200, None)]
    measured = sample(metrics, "douane_clock_skew_seconds")
    assert measured is not None
    assert abs(measured - offset_s) < 5
    assert sample(metrics, "douane_clock_retries_total") == 1
    assert skews.corrections_s() == {"eu-central-1": round(measured, 1)}
    (told,) = [one for one in caplog.records if one.msg == "clock_skew"]
    assert told.levelno == logging.WARNING
    assert told.fields == {"region": "eu-central-1", "skew_s": round(measured, 1)}  # type: ignore[attr-defined]


async def test_a_clock_that_is_set_right_again_is_noticed(
    http: aiohttp.ClientSession, frankfurt: Running
) -> None:
    metrics = Metrics()
    backend, skews = backend_of(http, frankfurt, metrics)
    frankfurt.emulator.faults.add(Fault(kind="wrong_time", times=None))
    await complete(backend)
    frankfurt.emulator.faults.clear()
    await complete(backend)

    assert statuses(frankfurt) == [REFUSED, (200, None), REFUSED, (200, None)]
    assert (skews.corrections_s(), sample(metrics, "douane_clock_skew_seconds")) == ({}, 0)


async def test_a_skew_below_five_minutes_never_costs_a_call(
    http: aiohttp.ClientSession, frankfurt: Running
) -> None:
    metrics = Metrics()
    backend, _ = backend_of(http, frankfurt, metrics)
    for offset_s in (200.0, 400.0, 600.0):  # a clock that runs away, while answers tell of it
        frankfurt.emulator.faults.clear()
        frankfurt.emulator.faults.add(Fault(kind="wrong_time", offset_s=offset_s, times=None))
        await complete(backend)

    assert statuses(frankfurt) == [(200, None)] * 3
    assert sample(metrics, "douane_clock_retries_total") == 0


async def test_a_wrong_secret_is_not_tried_again(http: aiohttp.ClientSession, frankfurt: Running) -> None:
    """The same refusal, but its `Date` says that the time was right."""
    metrics = Metrics()
    backend, _ = backend_of(http, frankfurt, metrics, Keys(secret_key="wrong"))

    with pytest.raises(Misconfigured, match="refused the request's signature"):
        await complete(backend)

    assert statuses(frankfurt) == [REFUSED]
    assert sample(metrics, "douane_clock_retries_total") == 0


async def test_a_wrong_secret_and_a_wrong_clock_are_tried_twice_and_no_more(
    http: aiohttp.ClientSession, frankfurt: Running
) -> None:
    backend, _ = backend_of(http, frankfurt, Metrics(), Keys(secret_key="wrong"))
    frankfurt.emulator.faults.add(Fault(kind="wrong_time", times=None))

    with pytest.raises(Misconfigured):
        await complete(backend)

    assert statuses(frankfurt) == [REFUSED, REFUSED]


async def test_a_probe_of_a_region_with_another_time_succeeds(
    http: aiohttp.ClientSession, frankfurt: Running
) -> None:
    backend, _ = backend_of(http, frankfurt, Metrics())
    frankfurt.emulator.faults.add(Fault(kind="wrong_time", times=None))

    await backend.probe()

    assert statuses(frankfurt) == [REFUSED, (400, "ValidationException")]


def test_the_skew_of_a_host_outlives_the_backends_that_are_built_for_it() -> None:
    skews = Skews(Metrics())

    assert skews.of("a", "eu-central-1") is skews.of("a", "eu-central-1")
    assert skews.of("a", "eu-central-1") is not skews.of("b", "eu-west-1")
