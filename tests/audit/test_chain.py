"""The chain's arithmetic, recomputed with nothing but the standard library."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.audit.chain import CHAIN_FIELDS, GENESIS, NotARecord, seal, time_text, unseal

from . import samples

calm = settings(deadline=None, max_examples=60)  # a busy machine is not a bug

MOMENT = datetime(2026, 11, 23, 15, 19, 3, 123456, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.text().filter(lambda name: name not in CHAIN_FIELDS), JSON, max_size=6)


def stranger(line: bytes) -> dict[str, Any]:
    """What `docs/audit.md` tells an auditor to do; returns the record after checking its hash."""
    record: dict[str, Any] = json.loads(line)
    stated = record.pop("hash")
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(canonical.encode()).hexdigest() == stated
    return {**record, "hash": stated}


def test_a_line_is_the_canonical_record_with_its_hash_last() -> None:
    line, sealed = seal(
        "aa", GENESIS, "begin", MOMENT, {"tenant": "ümläut \u2028 \x7f \x01", "rules": ["b", "a"]}
    )

    body = (
        '{"kind":"begin","prev":"' + "0" * 64 + '","replica":"aa","rules":["b","a"],"seq":1,'
        '"tenant":"ümläut \u2028 \x7f \\u0001","time":"2026-11-23T15:19:03.123456Z","v":1}'
    ).encode()
    digest = hashlib.sha256(body).hexdigest()
    assert line == body[:-1] + b',"hash":"' + digest.encode() + b'"}\n'
    assert (sealed.sequence, sealed.hash) == (1, digest)


@calm
@given(many=st.lists(FIELDS, min_size=1, max_size=5))
def test_a_stranger_with_plain_json_recomputes_every_hash_and_every_link(many: list[dict[str, Any]]) -> None:
    head, previous = GENESIS, "0" * 64
    for number, fields in enumerate(many, start=1):
        line, head = seal("aa", head, "begin", MOMENT, fields)
        record = stranger(line)
        assert (record["prev"], record["seq"]) == (previous, number)
        assert {name: record[name] for name in fields} == fields
        previous = record["hash"]


@calm
@given(fields=FIELDS)
def test_what_was_sealed_can_be_read_back(fields: dict[str, Any]) -> None:
    line, sealed = seal("aa", GENESIS, "end", MOMENT, fields)

    link = unseal(line[:-1])
    assert link.intact
    assert (link.replica, link.sequence, link.kind, link.previous, link.hash, link.time, link.fields) == (
        "aa", 1, "end", "0" * 64, sealed.hash, "2026-11-23T15:19:03.123456Z", fields,
    )  # fmt: skip


@pytest.mark.parametrize("sample", samples.ALL, ids=lambda sample: str(sample.kind))
def test_every_kind_of_record_can_be_sealed_and_recomputed(sample: Any) -> None:
    line, _ = seal("aa", GENESIS, sample.kind, MOMENT, sample.fields())

    assert stranger(line)["kind"] == sample.kind


@calm
@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))
@example(datetime(2026, 1, 1, tzinfo=UTC))
@example(datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC))
def test_every_time_is_written_with_its_microseconds(moment: datetime) -> None:
    line, _ = seal("aa", GENESIS, "begin", moment, {})

    assert unseal(line[:-1]).time == time_text(moment)
    assert time_text(moment) == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seq": 1}, "`seq` belongs to the chain"),
        ({"hash": "x", "v": 2}, "`hash, v` belongs to the chain"),
        ({"cost": 0.5}, "a record has no fractions"),
        ({"a": [{"b": (1, 2.0)}]}, "a record has no fractions"),
        ({"a": 2**53}, "integers lie within"),
        ({"a": {"b": [-(2**53)]}}, "integers lie within"),
        ({"a": "x" * 2_000_000}, "over the limit"),
    ],
)
def test_what_could_be_spelled_in_two_ways_is_not_sealed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seal("aa", GENESIS, "begin", MOMENT, fields)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", "\ud800", {1: "a"}, samples.UPSTREAM, MOMENT.tzinfo]
)
def test_what_is_not_json_is_not_sealed(value: Any) -> None:
    with pytest.raises(TypeError):
        seal("aa", GENESIS, "begin", MOMENT, {"a": value})


def altered(**changes: Any) -> bytes:
    record = {
        "v": 1, "replica": "aa", "seq": 1, "time": "2026-01-01T00:00:00.000000Z", "kind": "end",
        "prev": "0" * 64, **changes,
    }  # fmt: skip
    body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "does not end with the member `hash`"),
        (b'{"a":1}', "does not end with the member `hash`"),
        (altered()[:-1] + b" }", "does not end with the member `hash`"),
        (b"nonsense" + altered()[8:], "not JSON"),
        (b" " + altered(), "not an object in canonical form"),
        (b"[1" + altered()[-75:], "not JSON"),
        (altered().replace(b'"kind"', b'"kind":"begin","kind"'), "canonical form"),
        (altered(v=2), "`v` is not 1"),
        (altered(v=True), "`v` is not 1"),
        (altered(seq=0), "`seq` is not a whole number"),
        (altered(seq=True), "`seq` is not a whole number"),
        (altered(seq="1"), "`seq` is not a whole number"),
        (altered(time="yesterday"), "`time` is not a UTC time"),
        (altered(kind=1), "`replica` or `kind` is not a string"),
        (altered(prev="0" * 63), "`prev` or `hash` is not 64"),
        (altered()[:-3] + b'G"}', "`prev` or `hash` is not 64"),
        (b"x" * 2_000_000, "the line has 2000000 bytes"),
    ],
)
def test_a_line_that_is_no_record_says_why(line: bytes, message: str) -> None:
    with pytest.raises(NotARecord, match=message):
        unseal(line)
