"""Records hold metadata only, under names from a closed set."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.audit.records import Record, Refused
from gateway.backends import base

from . import samples

FIELD_NAMES = {
    # who and what, in the bundle's words
    "request", "tenant", "key", "zone", "purpose", "labels", "model",
    # what decided
    "revision", "serial", "rules", "permitted", "plan", "previous", "kept",
    "considered", "allowed", "denied", "route", "skipped", "saw",
    # what became of it
    "began", "outcome", "status", "code", "cache", "receipt", "stream", "cost_usd_nano",
    "attempts", "place", "kind", "host", "region", "upstream_request_id", "emulated",
    "usage", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens",
    # commitments
    "request_hmac", "answer_hmac", "end_user_hmac", "detected", "redacted",
    # the process
    "version", "durability", "signing_key", "before", "after", "demo", "reason", "unfinished_count",
    "rules_count", "places_count", "tenants_count", "problems", "problems_count",
    # what a bundle changes, and who vouches for it
    "signed_by", "summary", "newly_allowed", "newly_denied", "also_changed", "said",
    "torn_bytes", "torn_sha256", "kept_as",
    # a candidate
    "action", "live", "judged_count", "disagreements_count",
    # keys of tenants
    "key_id", "shredded_at",
    # the chain itself
    "jws", "first", "last", "last_hash", "files_count", "keep_days",
}  # fmt: skip


def names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from names(item)


def test_every_kind_of_record_has_a_sample() -> None:
    assert {type(sample) for sample in samples.ALL} == set(typing.get_args(Record))


def test_the_names_of_all_fields_are_a_closed_set_that_has_no_room_for_content() -> None:
    used = {name for sample in samples.ALL for name in names(sample.fields())}

    assert used == FIELD_NAMES


@pytest.mark.parametrize("sample", samples.ALL, ids=lambda sample: str(sample.kind))
def test_no_field_of_a_record_is_left_out_of_what_is_written(sample: Record) -> None:
    written = set(sample.fields()) | {"facts"}

    assert {field.name for field in dataclasses.fields(sample)} <= written


def test_the_end_of_a_request_says_where_it_was_tried_and_how_that_ended() -> None:
    assert samples.END.fields() == {
        "request": "req_1",
        "began": 1,
        "tenant": "acme-de",
        "outcome": "answered",
        "status": 200,
        "attempts": [
            {"place": "local-engine", "kind": "first", "outcome": "saturated"},
            {
                "place": "bedrock-frankfurt",
                "kind": "spill",
                "outcome": "answered",
                "host": "bedrock-runtime.eu-central-1.amazonaws.com",
                "region": "eu-central-1",
                "upstream_request_id": "5d0e3f1c",
                "emulated": False,
                "redacted": {},
            },
        ],
        "cache": "miss",
        "receipt": "rcpt_1",
        "code": None,
        "usage": {
            "prompt_tokens": 11, "completion_tokens": 22, "reasoning_tokens": 3, "cached_tokens": 4,
        },
        "cost_usd_nano": 12345,
        "answer_hmac": "d" * 64,
    }  # fmt: skip


def test_what_was_judged_stands_in_the_beginning_so_that_it_can_be_judged_again() -> None:
    fields = samples.BEGIN.fields()

    assert {name: fields[name] for name in ("tenant", "zone", "purpose", "model", "labels")} == {
        "tenant": "acme-de",
        "zone": "DE",
        "purpose": "support",
        "model": "gpt-oss-20b",
        "labels": ("confidential", "personal"),
    }


def test_a_refusal_of_an_unknown_caller_names_nobody() -> None:
    assert Refused(request="req_3", status=401, code="invalid_api_key").fields() == {
        "request": "req_3",
        "status": 401,
        "code": "invalid_api_key",
        "key": None,
        "tenant": None,
        "revision": None,
        "serial": None,
        "rules": (),
        "receipt": None,
        "request_hmac": None,
        "detected": (),
        "considered": None,
    }


def test_the_words_for_how_an_attempt_ended_are_those_of_the_backends() -> None:
    faults = {
        value.kind
        for value in vars(base).values()
        if isinstance(value, type) and issubclass(value, base.BackendFault)
    }

    assert {"saturated", "throttled", "broken", "timed_out", "unreachable"} < faults
    assert not faults & {"answered", "cancelled"}
