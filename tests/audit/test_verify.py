"""Each attack on a chain is found, at its line, and an honest chain is never accused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.verify import ChainReport, NotAnAuditFile, Unfinished, verify_files

from .chains import REPLICA, chain, line_of, rehashed, written

calm = settings(deadline=None, max_examples=60)  # a busy machine is not a bug

RECORDS = chain(9)
LINES = [line_of(record) for record in RECORDS]


def report(tmp_path: Path, lines: list[bytes]) -> ChainReport:
    (only,) = verify_files([written(tmp_path / "chain.jsonl", lines)])
    return only


def found(tmp_path: Path, lines: list[bytes]) -> list[tuple[int, str]]:
    return [(finding.line, finding.code) for finding in report(tmp_path, lines).alterations]


def replaced(index: int, *lines: bytes) -> list[bytes]:
    return [*LINES[:index], *lines, *LINES[index + 1 :]]


def test_an_honest_chain_is_intact_and_its_report_says_all_of_it(tmp_path: Path) -> None:
    path = str(tmp_path / "chain.jsonl")

    expected = ChainReport(
        replica=REPLICA,
        files=(path,),
        records=9,
        first=1,
        last=9,
        head=RECORDS[-1]["hash"],
        alterations=(),
        warnings=(),
        unfinished=(Unfinished(path, 9, "req_5"),),
    )
    assert report(tmp_path, LINES) == expected


@pytest.mark.parametrize("index", range(9))
def test_a_record_whose_content_was_edited_is_found_at_its_line(tmp_path: Path, index: int) -> None:
    edited = line_of({**RECORDS[index], "tenant": "globex-us"})

    assert found(tmp_path, replaced(index, edited)) == [(index + 1, "edited")]


@pytest.mark.parametrize("index", range(8))
def test_a_record_that_was_edited_and_hashed_anew_is_found_at_its_line(tmp_path: Path, index: int) -> None:
    edited = line_of(rehashed(RECORDS[index], tenant="globex-us"))

    assert found(tmp_path, replaced(index, edited)) == [(index + 1, "edited")]


@pytest.mark.parametrize("field", ["seq", "prev", "hash", "replica", "time", "kind", "v"])
@pytest.mark.parametrize("index", range(9))
def test_any_of_the_chains_own_fields_edited_is_found_at_its_line(
    tmp_path: Path, index: int, field: str
) -> None:
    value: Any = {"seq": 77, "v": 2, "time": "2020-01-01T00:00:00.000000Z"}.get(field, "a" * 64)

    assert (index + 1, "edited") in found(
        tmp_path, replaced(index, line_of({**RECORDS[index], field: value}))
    )
    assert len(found(tmp_path, replaced(index, line_of({**RECORDS[index], field: value})))) == 1


@pytest.mark.parametrize("index", range(8))
def test_a_previous_hash_that_was_edited_and_hashed_anew_is_found_at_its_line(
    tmp_path: Path, index: int
) -> None:
    edited = line_of(rehashed(RECORDS[index], prev="a" * 64))

    assert found(tmp_path, replaced(index, edited)) == [(index + 1, "edited")]


@pytest.mark.parametrize("index", range(8))
def test_a_dropped_record_is_found_where_the_next_one_stands(tmp_path: Path, index: int) -> None:
    result = report(tmp_path, replaced(index))

    assert [(f.line, f.code) for f in result.alterations] == [(index + 1, "dropped")]
    assert result.alterations[0].message == f"record {index + 1} is missing before this line"


def test_a_dropped_run_is_one_finding(tmp_path: Path) -> None:
    result = report(tmp_path, [*LINES[:2], *LINES[6:]])

    assert [(f.line, f.code, f.message) for f in result.alterations] == [
        (3, "dropped", "records 3 to 6 are missing before this line")
    ]


def test_two_drops_around_one_record_are_two_findings(tmp_path: Path) -> None:
    assert found(tmp_path, [*LINES[:2], LINES[3], *LINES[5:]]) == [(3, "dropped"), (4, "dropped")]


@pytest.mark.parametrize("index", range(8))
def test_two_swapped_neighbours_are_one_reordering(tmp_path: Path, index: int) -> None:
    swapped = [*LINES[:index], LINES[index + 1], LINES[index], *LINES[index + 2 :]]

    (one,) = found(tmp_path, swapped)
    assert one in {(index + 1, "reordered"), (index + 2, "reordered")}


@pytest.mark.parametrize(("source", "target"), [(2, 7), (7, 2), (0, 8), (8, 0)])
def test_a_record_moved_far_is_named_at_its_new_line(tmp_path: Path, source: int, target: int) -> None:
    lines = list(LINES)
    lines.insert(target, lines.pop(source))

    assert found(tmp_path, lines) == [(target + 1, "reordered")]


@pytest.mark.parametrize(("source", "target"), [(0, 1), (4, 5), (4, 9), (8, 9), (6, 2)])
def test_a_duplicated_record_is_found(tmp_path: Path, source: int, target: int) -> None:
    lines = list(LINES)
    lines.insert(target, LINES[source])

    (one,) = found(tmp_path, lines)
    assert one[1] == "duplicated"
    assert one[0] in {target + 1, source + 1 + (target <= source)}


@pytest.mark.parametrize("index", range(1, 9))
def test_an_inserted_record_is_found_even_when_it_is_chained_to_the_one_before(
    tmp_path: Path, index: int
) -> None:
    before = RECORDS[index - 1]
    forged = rehashed(
        RECORDS[index], seq=before["seq"] + 1, prev=before["hash"], request="req_forged", kind="end"
    )
    lines = list(LINES)
    lines.insert(index, line_of(forged))

    if index < 8:
        assert found(tmp_path, lines) == [(index + 1, "inserted")]
    else:  # at the very end nothing is chained to either, so one of both is named
        (one,) = found(tmp_path, lines)
        assert one[1] == "inserted"


@pytest.mark.parametrize("line", [b"", b"{}", b"not json", b"\xff\xfe", LINES[3][:-1], b" " + LINES[3]])
def test_a_line_that_is_no_record_is_found(tmp_path: Path, line: bytes) -> None:
    assert found(tmp_path, [*LINES[:4], line, *LINES[4:]]) == [(5, "inserted")]
    assert found(tmp_path, replaced(4, line)) == [(5, "edited")]


def test_a_key_that_stands_twice_is_found(tmp_path: Path) -> None:
    doubled = LINES[4].replace(b'"tenant"', b'"tenant":"globex-us","tenant"')

    assert found(tmp_path, replaced(4, doubled)) == [(5, "edited")]


def test_a_record_of_another_replica_is_found(tmp_path: Path) -> None:
    foreign = line_of(chain(5, replica="f" * 16)[4])

    assert found(tmp_path, [*LINES[:4], foreign, *LINES[4:]]) == [(5, "inserted")]


def test_a_record_with_a_number_out_of_nowhere_does_not_pass_for_a_gap(tmp_path: Path) -> None:
    forged = line_of(rehashed(RECORDS[4], seq=10**12, prev="a" * 64))

    assert found(tmp_path, [*LINES[:4], forged, *LINES[4:]]) == [(5, "inserted")]


def test_several_attacks_at_once_are_all_found(tmp_path: Path) -> None:
    records = chain(40)
    lines = [line_of(record) for record in records]
    lines[4] = line_of({**records[4], "tenant": "x"})  # line 5 edited
    lines[30] = line_of(rehashed(records[30], tenant="x"))  # record 31, on line 30 after the drop
    del lines[19]  # record 20 gone, seen at line 20
    lines.append(lines[2])  # record 3 again, on line 40

    assert found(tmp_path, lines) == [
        (5, "edited"), (20, "dropped"), (30, "edited"), (40, "duplicated")
    ]  # fmt: skip


@calm
@given(data=st.data())
def test_no_change_of_a_byte_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = b"".join(line + b"\n" for line in LINES)
    # The last record's content is only held by its own hash, which the line itself carries: still a mismatch.
    position = data.draw(st.integers(0, len(whole) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[position]))
    path = tmp_path_factory.mktemp("chain") / "chain.jsonl"
    path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])

    (only,) = verify_files([path])

    assert not only.intact


@calm
@given(count=st.integers(0, 60))
def test_no_honest_chain_is_accused(tmp_path_factory: pytest.TempPathFactory, count: int) -> None:
    path = written(tmp_path_factory.mktemp("chain") / "c.jsonl", [line_of(r) for r in chain(count)])

    (only,) = verify_files([path])

    assert only.intact
    assert only.records == count


@calm
@given(kept=st.sets(st.integers(0, 8), min_size=2).filter(lambda kept: len(kept) < 9 and max(kept) == 8))
def test_whatever_is_dropped_before_the_end_is_named_exactly(
    tmp_path_factory: pytest.TempPathFactory, kept: set[int]
) -> None:
    path = written(tmp_path_factory.mktemp("chain") / "c.jsonl", [LINES[i] for i in sorted(kept)])

    (only,) = verify_files([path])

    assert {finding.code for finding in only.alterations} == {"dropped"}
    gaps = sum(1 for index in kept if index > 0 and index - 1 not in kept)
    assert len(only.alterations) == gaps


def test_a_cut_tail_is_not_found_and_the_report_says_that_it_cannot_be(tmp_path: Path) -> None:
    assert report(tmp_path, LINES[:6]).intact


def test_a_torn_last_line_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "chain.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in LINES) + LINES[0][:40])

    (only,) = verify_files([path])

    assert only.intact
    assert [(warning.line, warning.code) for warning in only.warnings] == [(10, "torn")]


def test_a_clock_that_went_back_is_a_warning(tmp_path: Path) -> None:
    late = rehashed(RECORDS[-1], seq=10, prev=RECORDS[-1]["hash"], time="2025-12-31T23:59:59.000000Z")

    result = report(tmp_path, [*LINES, line_of(late)])

    assert result.intact
    assert [(warning.line, warning.code) for warning in result.warnings] == [(10, "clock")]


def test_a_chain_in_two_files_is_one_chain_in_any_order(tmp_path: Path) -> None:
    early = written(tmp_path / "early.jsonl", LINES[:4])
    late = written(tmp_path / "late.jsonl", LINES[4:])

    (only,) = verify_files([late, early])

    assert (only.intact, only.records, only.files) == (True, 9, (str(early), str(late)))


def test_a_missing_first_file_is_a_drop(tmp_path: Path) -> None:
    (only,) = verify_files([written(tmp_path / "late.jsonl", LINES[4:])])

    assert [(f.line, f.code, f.message) for f in only.alterations] == [
        (1, "dropped", "records 1 to 4 are missing before this line")
    ]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path / "chain.jsonl", LINES)

    assert verify_files([path, path]) == verify_files([path])


def test_files_of_two_replicas_are_two_reports(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", LINES)
    other = written(tmp_path / "other.jsonl", [line_of(r) for r in chain(3, replica="f" * 16)])

    assert [(r.replica, r.records, r.intact) for r in verify_files([other, one])] == [
        (REPLICA, 9, True),
        ("f" * 16, 3, True),
    ]


@pytest.mark.parametrize("content", [b"hello\n", b"{}\n{}\n", b"no line end", b"x" * 3_000_000])
def test_a_file_that_is_no_audit_file_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.txt"
    path.write_bytes(content)

    with pytest.raises(NotAnAuditFile, match="is not an audit file"):
        verify_files([path])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAnAuditFile, match=r"`.*gone\.jsonl` cannot be read: No such file"):
        verify_files([tmp_path / "gone.jsonl"])
