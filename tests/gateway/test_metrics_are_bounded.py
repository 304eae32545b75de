"""Metrics are words of ours and of the bundle's, and so many of them: nobody who calls adds any."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import errors
from gateway.backends.base import BackendFault, ServerFault
from gateway.detect.kinds import KINDS, PATTERN
from gateway.metrics import SERIES_MAX, Metrics
from gateway.receipts.receipt import Outcome
from tests.canary.tokens import new_token, search
from tests.gateway.inprocess import Client, chat, gateway, script
from tests.integration.bundle import GLOBEX, HELPDESK, REPORTING, WARD, bundle_with_keys

TOKENS = 40


def every_code(error: type[errors.DouaneError]) -> set[type[errors.DouaneError]]:
    return {error} | {one for kind in error.__subclasses__() for one in every_code(kind)}


def every_fault(fault: type[BackendFault]) -> set[str]:
    return {fault.kind} | {one for kind in fault.__subclasses__() for one in every_fault(kind)}


def odd(token: str, number: int) -> Client:
    """A request with a token in one of the places where a caller may put words."""
    fields: list[dict[str, Any]] = [
        {"model": token},
        {token: 1},
        {"user": token},
        {"metadata": {token: token}},
        {"stop": [token]},
        {"tools": [{"type": "function", "function": {"name": token}}]},
        {"messages": [{"role": token, "content": token}]},
        {"temperature": token},
    ]
    client = chat(token, **fields[number % len(fields)])
    headers = {
        b"x-douane-labels": token.encode(),
        b"authorization": b"Bearer " + token.encode(),
        b"traceparent": token.encode(),
        b"content-type": b"text/" + token.encode(),
        b"content-encoding": token.encode(),
    }
    name = list(headers)[number % len(headers)]
    if number % 2:
        client.headers = (
            *((key, value) for key, value in client.headers if key != name),
            (name, headers[name]),
        )
    return client


async def test_whatever_callers_send_the_series_are_of_closed_sets(tmp_path: Path) -> None:
    policies = bundle_with_keys(tmp_path / "policies")
    tokens = {f"token {number}": new_token() for number in range(TOKENS)}
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)
        script(context, "bedrock-frankfurt", "bedrock-virginia")

        async def fail_sometimes() -> None:
            if len(engine.attempts) % 3 == 0:
                raise ServerFault("failed")

        engine.before = fail_sometimes
        statuses = set()
        for key in (HELPDESK, REPORTING, GLOBEX, WARD):
            for stream in (False, True):
                client = chat("hello", key=key, stream=stream)
                await client.ask(context)
                statuses.add(client.status)
        for number, token in enumerate(tokens.values()):
            client = odd(token, number)
            await client.ask(context)
            statuses.add(client.status)
        text = context.metrics.exposition().decode()
        places = set(context.policies.current.places)
        tenants = set(context.policies.current.tenants)

    assert {200, 400, 401, 404, 415} <= statuses
    assert search(tokens, {"metrics": text.encode()}) == []
    kinds = set(get_args(Outcome))
    closed = {
        "outcome": kinds
        | every_fault(BackendFault)
        | {"answered", "cancelled", "withdrawn", "client_gone", "loaded", "refused"}
        | {"content", "metadata", "withheld", "dropped", "failed"},
        "status": {str(error.status) for error in every_code(errors.DouaneError) if hasattr(error, "status")}
        | {"200", "499", "off", "miss", "hit"},
        "place": places,
        "kind": {"first", "retry", "fallback", "spill", "hedge", "context_window", "content_filter"}
        | KINDS
        | {PATTERN},
        "refused": {"name", "answer", "address", "datagram"},
        "direction": {"in", "out"},
        "sink": {"log", "content_log", "traces"},
        "le": None,
    }
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {name for sample in samples for name in sample.labels} <= closed.keys()
    outside = [
        (sample.name, name, value)
        for sample in samples
        for name, value in sample.labels.items()
        if (allowed := closed[name]) is not None and value not in allowed
    ]
    assert outside == []
    assert not any(re.search(rf"\b{tenant}\b", text) for tenant in tenants - {"demo"})
    assert len([sample for sample in samples if "le" not in sample.labels]) < 200


def test_a_word_that_is_none_of_ours_is_counted_without_being_said() -> None:
    metrics = Metrics()
    for word in ("a prompt's words", "", "x" * 65, 'quoted"', "new\nline", "schön"):
        metrics.requests.labels(word, "200").inc()
    metrics.requests.labels("answered", "200").inc()

    assert series(metrics, "douane_requests_total") == {
        json.dumps({"outcome": "other", "status": "other"}): 6.0,
        json.dumps({"outcome": "answered", "status": "200"}): 1.0,
    }


@pytest.mark.parametrize("name", ["requests", "attempts"])
def test_a_metric_grows_to_a_bound_whatever_is_counted(name: str) -> None:
    metrics = Metrics()
    counter = getattr(metrics, name)
    labels = len(counter._labelnames)
    for number in range(2 * SERIES_MAX):
        counter.labels(*[f"word-{number}"] * labels).inc()
    for _ in range(3):
        counter.labels(*["word-0"] * labels).inc()

    found = series(metrics, f"douane_{name}_total")
    assert len(found) == SERIES_MAX
    assert sum(found.values()) == 2 * SERIES_MAX + 3
    assert sorted(found.values())[-2:] == [4.0, SERIES_MAX + 1.0]


def series(metrics: Metrics, name: str) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        json.dumps(sample.labels): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }
