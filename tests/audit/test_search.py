"""`douane audit search`: requests by what is recorded of them, beginning and end as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.audit.chain import Link
from gateway.audit.reading import Line, Reading
from gateway.audit.search import Entry, Filter, entries, moment_of
from gateway.cli.audit import audit

from .chains import chain, line_of, written
from .traffic import FRANKFURT, VIRGINIA, Traffic

OTHER = "fedcba9876543210"


def douane(*arguments: object) -> Result:
    return CliRunner().invoke(audit, ["search", *map(str, arguments)], catch_exceptions=False)


def found(traffic: Traffic, *options: str) -> list[str]:
    """What each found request was, by the name that the traffic has for it."""
    result = douane(traffic.audit, "--format", "json", *options)
    assert result.exit_code in (0, 1), result.output
    names = {request: what for what, request in traffic.ids.items()}
    lines = [json.loads(line) for line in result.output.splitlines()]
    return [names[one["request"]] for line in lines for one in list(line.values())[:1] if "request" in one]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tenant", "acme-de"], ["personal"]),
        (["--label", "internal"], ["answered", "cached", "personal", "broken"]),
        (["--label", "internal", "--label", "personal"], ["personal"]),
        (["--place", VIRGINIA], ["spilled", "american"]),
        (["--place", FRANKFURT, "--outcome", "failed"], ["broken"]),
        (["--outcome", "refused"], ["malformed", "denied"]),
        (["--outcome", "cached"], ["cached"]),
        (["--rule", "secret-stays-on-the-premises"], ["denied"]),
        (["--model", "gpt-oss-120b"], []),
        (["--kind", "refused"], ["malformed", "denied"]),
        (["--kind", "end", "--limit", "2"], ["answered", "cached"]),
        (["--since", "2126-01-01"], []),
        (["--until", "2026-01-01"], []),
        (["--since", "2026-01-01", "--until", "2126-01-01", "--limit", "1"], []),
    ],
)
def test_requests_are_found_by_what_is_recorded_of_them(
    traffic: Traffic, options: list[str], expected: list[str]
) -> None:
    assert found(traffic, *options) == expected


def test_a_request_is_found_by_its_id_with_its_beginning_and_its_end(traffic: Traffic) -> None:
    result = douane(traffic.audit, "--request", traffic.ids["spilled"], "--format", "json")
    begin, end = traffic.record("spilled", "begin"), traffic.record("spilled", "end")

    def whole(link: Link) -> dict[str, Any]:
        file = {"file": str(traffic.chain), "line": link.sequence, "replica": link.replica}
        return {**file, "seq": link.sequence, "time": link.time, "hash": link.hash, **link.fields}

    assert result.exit_code == 0
    assert json.loads(result.output) == {"begin": whole(begin), "end": whole(end)}


def test_the_text_has_one_line_for_each(traffic: Traffic) -> None:
    result = douane(traffic.audit, "--request", traffic.ids["spilled"])
    started = douane(traffic.audit, "--kind", "started")

    assert result.output == (
        f"{traffic.record('spilled', 'begin').time}  {traffic.ids['spilled']}  demo  gpt-oss-20b  public  "
        "answered 200 at bedrock-frankfurt  "
        "by european-and-us-tenants-may-use-bedrock, our-premises-serve-every-tenant\n"
    )
    assert started.output.split("  ")[1] == "started"
    assert "place=gateway" in started.output


def test_nothing_found_exits_1_and_what_cannot_be_read_3(traffic: Traffic, tmp_path: Path) -> None:
    damaged = tmp_path / "chain.jsonl"
    lines = traffic.chain.read_bytes().splitlines(keepends=True)
    number = next(at for at, line in enumerate(lines, 1) if b'"labels":["public"]' in line)
    lines[number - 1] = lines[number - 1].replace(b'"labels":["public"]', b'"labels":["secret"]')
    damaged.write_bytes(b"".join(lines))

    assert douane(traffic.audit, "--tenant", "nobody").exit_code == 1
    assert douane().exit_code == 3
    assert douane(tmp_path / "missing").exit_code == 3
    assert douane(traffic.audit, "--since", "yesterday").exit_code == 2
    partly = douane(damaged, "--tenant", "demo", "--format", "json")
    assert partly.exit_code == 3
    assert f"{damaged}:{number}: record {number} was altered" in partly.output


def records_of(replica: str, count: int, start: int = 0) -> list[bytes]:
    return [line_of(record) for record in chain(count, replica)][start:]


def test_several_replicas_are_read_in_the_order_of_time_and_a_torn_last_line_is_passed_over(
    tmp_path: Path,
) -> None:
    ours = written(tmp_path / "0123456789abcdef.jsonl", records_of("0123456789abcdef", 4))
    written(tmp_path / f"{OTHER}.jsonl", records_of(OTHER, 4))
    with ours.open("ab") as file:
        file.write(b'{"began":')

    lines = list(Reading.of([tmp_path]).by_time())

    assert [(line.link.replica[0], line.link.sequence) for line in lines] == [
        (replica, number) for number in range(1, 5) for replica in ("0", "f")
    ]


def test_closed_files_of_a_replica_come_before_the_live_one(tmp_path: Path) -> None:
    lines = records_of("0123456789abcdef", 6)
    written(tmp_path / "0123456789abcdef.jsonl", lines[4:])
    written(tmp_path / "0123456789abcdef-000000000001.jsonl", lines[:2])
    written(tmp_path / "0123456789abcdef-000000000003.jsonl", lines[2:4])

    assert [line.link.sequence for line in Reading.of([tmp_path]).in_order()] == [1, 2, 3, 4, 5, 6]


def test_requests_without_an_end_are_unfinished_and_ends_alone_are_shown(tmp_path: Path) -> None:
    path = written(tmp_path / "chain.jsonl", records_of("0123456789abcdef", 5, start=1))

    shown = list(entries(Reading.of([path]).in_order(), Filter()))

    assert [(one.field("request"), one.kind, one.outcome) for one in shown] == [
        ("req_1", "end", "None"),
        ("req_2", "begin", "None"),
        ("req_3", "begin", "unfinished"),
    ]


def test_no_more_requests_are_waited_for_than_there_is_room_for() -> None:
    """Ten of a thousand beginnings without an end are kept."""
    kept: list[int] = []

    def beginnings() -> Iterator[Line]:
        for number in range(1, 1001):
            link = Link("r", number, "t", "begin", "", "", "", {"request": f"req_{number}"})
            kept.append(number)
            yield Line(Path("f"), number, b"", link)

    shown = entries(beginnings(), Filter(), open_max=10)
    first = next(shown)

    assert isinstance(first, Entry)
    assert (first.field("request"), kept[-1]) == ("req_1", 11)
    assert len(list(shown)) == 999


@pytest.mark.parametrize(
    ("text", "end", "moment"),
    [
        ("2026-11-23", False, "2026-11-23T00:00:00.000000Z"),
        ("2026-11-23", True, "2026-11-24T00:00:00.000000Z"),
        ("2026-11-23T15:00", True, "2026-11-23T15:00:00.000000Z"),
        ("2026-11-23T15:00:00.5Z", False, "2026-11-23T15:00:00.500000Z"),
        ("2026-11-23T15:00+02:00", False, "2026-11-23T13:00:00.000000Z"),
    ],
)
def test_a_day_or_a_time_is_understood(text: str, end: bool, moment: str) -> None:
    assert moment_of(text, end=end) == moment
