"""When the chain is signed, cut into files and thinned out; and what a crash between two steps leaves."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import files as files_module
from gateway.audit.chain import GENESIS, unseal
from gateway.audit.checkpoint import verify_checkpoint
from gateway.audit.directory import AuditUnusable
from gateway.audit.files import FileAudit, open_file_audit
from gateway.audit.segments import begin_file, closed_path, draft_path
from gateway.audit.verify import verify_files
from gateway.clock import ManualClock
from gateway.errors import RecordUnavailable
from tests.receipts.samples import PINNED, SIGNER

from .signed import EVERY, files_of, opened, read, record


def kinds(audit: FileAudit) -> list[str]:
    return [one["kind"] for one in read(audit.path)]


def intact(directory: Path) -> bool:
    return all(report.intact for report in verify_files([directory], PINNED))


async def test_a_checkpoint_follows_so_many_records_at_the_latest_and_vouches_for_them(
    tmp_path: Path,
) -> None:
    audit = opened(tmp_path / "audit", SIGNER, file_bytes=1 << 20)

    await record(audit, (1, 2, 3))

    assert kinds(audit) == ["begin", "end", "begin", "end", "checkpoint", "begin", "end"]
    records = read(audit.path)
    point = verify_checkpoint(records[4]["jws"], PINNED)
    assert (point.replica, point.sequence, point.hash, point.time, point.within) == (
        audit.replica, 4, records[3]["hash"], "2026-01-01T00:00:00.000000Z", EVERY,
    )  # fmt: skip
    await audit.aclose()


async def test_the_last_record_of_a_chain_that_was_closed_is_a_checkpoint(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await audit.append("stopped", {})
    await audit.aclose()

    assert kinds(audit) == ["stopped", "checkpoint"]


async def test_nothing_new_is_nothing_to_sign(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    audit.checkpoint()
    await audit.append("begin", {})
    audit.checkpoint()
    audit.checkpoint()

    assert kinds(audit) == ["begin", "checkpoint"]
    await audit.aclose()


async def test_time_brings_a_checkpoint_too(tmp_path: Path) -> None:
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock)
    tending = asyncio.create_task(audit.tend(60.0))
    await audit.append("begin", {})

    for _ in range(3):  # only the first finds something new
        await asyncio.sleep(0)
        clock.advance(60.0)
        await asyncio.sleep(0)

    assert kinds(audit) == ["begin", "checkpoint"]
    tending.cancel()
    await audit.aclose()


async def test_after_a_crash_the_first_record_is_preceded_by_a_checkpoint_of_what_was_there(
    tmp_path: Path,
) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await record(audit, (1,))
    os.close(audit._descriptor)  # what a killed process leaves

    again = opened(tmp_path / "audit", SIGNER)
    await again.append("started", {})

    assert kinds(again) == ["begin", "end", "checkpoint", "started"]
    await again.aclose()
    assert intact(tmp_path / "audit")


async def test_a_restart_after_an_orderly_end_signs_nothing_twice(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await audit.append("stopped", {})
    await audit.aclose()

    again = opened(tmp_path / "audit", SIGNER)
    await again.append("started", {})

    assert kinds(again) == ["stopped", "checkpoint", "started"]
    await again.aclose()


async def test_no_more_records_than_promised_ever_stand_without_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that has no room for a checkpoint keeps no further record either."""
    audit = opened(tmp_path / "audit", SIGNER, file_bytes=1 << 20)
    whole = FileAudit._write_whole

    def full_for_checkpoints(self: FileAudit, line: bytes) -> None:
        if b'"kind":"checkpoint"' in line:
            raise OSError(28, "No space left on device")
        whole(self, line)

    monkeypatch.setattr(FileAudit, "_write_whole", full_for_checkpoints)
    await record(audit, (1, 2))
    with pytest.raises(RecordUnavailable):
        await audit.append("begin", {})
    monkeypatch.setattr(FileAudit, "_write_whole", whole)
    await audit.append("begin", {})

    assert kinds(audit) == ["begin", "end"] * 2 + ["checkpoint", "begin"]
    await audit.aclose()


async def test_a_full_file_is_closed_under_the_number_of_its_first_record(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await record(audit, range(1, 11))
    await audit.aclose()

    paths = files_of(audit.path)
    firsts = [unseal(path.read_bytes().splitlines()[0]) for path in paths]
    assert [path.name for path in paths] == [
        *(f"{audit.replica}-{link.sequence:012d}.jsonl" for link in firsts[:-1]),
        f"{audit.replica}.jsonl",
    ]
    assert len(paths) > 2
    assert [link.kind for link in firsts] == ["begin", *["checkpoint"] * (len(paths) - 1)]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert list((tmp_path / "audit").glob("*.next")) == []
    assert [one["seq"] for one in read(audit.path)] == list(range(1, audit.head.sequence + 1))
    assert intact(tmp_path / "audit")


async def test_a_restart_goes_on_in_the_file_that_grows(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await record(audit, range(1, 8))
    await audit.aclose()

    again = opened(tmp_path / "audit", SIGNER)
    assert (again.replica, again.head) == (audit.replica, audit.head)
    await record(again, range(8, 15))
    await again.aclose()

    assert intact(tmp_path / "audit")
    assert len(files_of(again.path)) > len(set(files_of(audit.path)) - set(files_of(again.path)))


async def test_synced_records_of_a_closed_file_are_on_the_disk_before_they_are_promised(
    tmp_path: Path,
) -> None:
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)

    keeping = files_module.Keeping(SIGNER.sign_checkpoint, EVERY, 1500)
    audit = open_file_audit(tmp_path / "audit", ManualClock(), "synced", sync, keeping)
    for number in range(1, 9):
        before = audit.path.stat().st_ino
        await audit.append("begin", {"request": f"req_{number}" + "x" * 300})
        assert before in synced

    assert len(files_of(audit.path)) > 1
    assert {path.stat().st_ino for path in files_of(audit.path)} <= set(synced)
    await audit.aclose()


async def test_a_closed_file_that_cannot_be_synced_refuses_every_later_record(tmp_path: Path) -> None:
    failing = False

    def sync(_: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    keeping = files_module.Keeping(SIGNER.sign_checkpoint, EVERY, 600)
    audit = open_file_audit(tmp_path / "audit", ManualClock(), "synced", sync, keeping)
    await record(audit, (1,))
    await audit.append("begin", {"request": "x" * 400})
    failing = True
    with pytest.raises(RecordUnavailable):
        await audit.append("end", {"request": "x" * 400})
    failing = False

    with pytest.raises(RecordUnavailable):
        await audit.append("begin", {})
    await audit.aclose()


@pytest.mark.parametrize("step", ["prepared", "linked"])
async def test_a_crash_while_files_are_changed_loses_and_doubles_nothing(tmp_path: Path, step: str) -> None:
    audit = opened(tmp_path / "audit", SIGNER, file_bytes=1 << 20)
    await record(audit, (1, 2, 3))
    await audit.aclose()
    os.close(begin_file(audit.path, b"half a record"))
    if step == "linked":
        os.link(audit.path, closed_path(audit.path, 1))
    assert intact(tmp_path / "audit")

    again = opened(tmp_path / "audit", SIGNER, file_bytes=1 << 20)
    assert (again.replica, again.head) == (audit.replica, audit.head)
    await record(again, (4,))
    await again.aclose()

    assert [path.name for path in sorted((tmp_path / "audit").iterdir())] == [f"{audit.replica}.jsonl"]
    assert intact(tmp_path / "audit")


async def test_a_live_file_that_a_power_cut_emptied_goes_on_from_the_closed_one(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await record(audit, range(1, 7))
    await audit.aclose()
    closed = files_of(audit.path)[-2]
    last = unseal(closed.read_bytes().splitlines()[-1])
    audit.path.write_bytes(b"")

    again = opened(tmp_path / "audit", SIGNER)
    assert (again.head.sequence, again.head.hash) == (last.sequence, last.hash)
    await record(again, (7,))
    await again.aclose()

    assert intact(tmp_path / "audit")


async def test_a_chain_whose_file_cannot_be_changed_grows_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = opened(tmp_path / "audit", SIGNER)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module, "change_files", refuse)
    await record(audit, range(1, 7))

    assert files_of(audit.path) == [audit.path]
    assert not draft_path(audit.path).exists()
    monkeypatch.undo()
    await record(audit, (7, 8, 9))
    assert len(files_of(audit.path)) == 2
    await audit.aclose()
    assert intact(tmp_path / "audit")


async def test_a_process_that_came_too_late_for_a_file_does_not_write_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened the file by its name; until it holds the lock, that file has been closed."""
    audit = opened(tmp_path / "audit", SIGNER)
    await record(audit, (1,))
    real = os.open

    def late(path: Any, *arguments: Any, **options: Any) -> int:
        descriptor = real(path, *arguments, **options)
        if Path(path) == audit.path:
            monkeypatch.setattr(os, "open", real)
            audit._write_line = lambda *_: None  # type: ignore[method-assign]
            draft = draft_path(audit.path)
            draft.write_bytes(b"")
            draft.chmod(0o600)
            os.link(audit.path, closed_path(audit.path, 1))
            draft.replace(audit.path)
            os.close(audit._descriptor)  # and lets the old file's lock go
        return descriptor

    monkeypatch.setattr(os, "open", late)
    other = opened(tmp_path / "audit", SIGNER)

    assert other.replica != audit.replica
    await other.aclose()


async def test_retention_removes_closed_files_and_records_that_first(tmp_path: Path) -> None:
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock, keep_days=30)
    await record(audit, range(1, 11))
    clock.advance(timedelta(days=29).total_seconds())
    assert audit.drop_expired() == 0
    before = files_of(audit.path)

    clock.advance(timedelta(days=2).total_seconds())
    await record(audit, range(11, 16))
    gone = audit.drop_expired()

    left = files_of(audit.path)
    assert gone == len(before) - len(set(before) & set(left)) >= 2
    first = unseal(left[0].read_bytes().splitlines()[0])
    (dropped,) = (one for one in read(audit.path) if one["kind"] == "segments_dropped")
    assert {name: dropped[name] for name in ("first", "last", "last_hash", "files_count", "keep_days")} == {
        "first": 1,
        "last": first.sequence - 1,
        "last_hash": first.previous,
        "files_count": gone,
        "keep_days": 30,
    }
    await audit.aclose()
    assert intact(tmp_path / "audit")


async def test_files_that_a_crash_left_after_they_were_declared_dropped_are_no_alteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock, keep_days=30)
    await record(audit, range(1, 11))
    clock.advance(timedelta(days=31).total_seconds())
    await record(audit, range(11, 16))
    removed: list[Path] = []
    unlink = Path.unlink

    def only_one(path: Path, **_: Any) -> None:
        if removed:
            raise OSError(5, "Input/output error")
        removed.append(path)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", only_one)
    with pytest.raises(OSError, match="Input/output"):
        audit.drop_expired()
    monkeypatch.undo()
    assert intact(tmp_path / "audit")

    assert audit.drop_expired() > 0
    await audit.aclose()
    assert intact(tmp_path / "audit")


async def test_without_a_retention_nothing_is_ever_removed(tmp_path: Path) -> None:
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock)
    await record(audit, range(1, 11))
    clock.advance(timedelta(days=36_500).total_seconds())
    await record(audit, range(11, 16))

    assert audit.drop_expired() == 0
    await audit.aclose()


async def test_a_closed_file_that_others_could_read_or_that_is_damaged_stops_retention_not_the_gateway(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock, keep_days=1)
    await record(audit, range(1, 11))
    clock.advance(timedelta(days=3).total_seconds())
    await record(audit, range(11, 16))
    files_of(audit.path)[1].write_bytes(b"no record\n")

    assert audit.drop_expired() == 0
    await audit.aclose()


async def test_an_emptied_live_file_after_a_damaged_closed_one_refuses_to_start(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await record(audit, range(1, 7))
    await audit.aclose()
    files_of(audit.path)[-2].write_bytes(b"no record\n")
    audit.path.write_bytes(b"")

    with pytest.raises(AuditUnusable, match="its last line is no intact record"):
        opened(tmp_path / "audit", SIGNER)


async def test_a_chain_without_keeping_is_one_unsigned_file(tmp_path: Path) -> None:
    audit = open_file_audit(tmp_path / "audit", ManualClock())
    assert audit.head == GENESIS
    await record(audit, range(1, 20))
    audit.checkpoint()
    await audit.aclose()

    assert set(kinds(audit)) == {"begin", "end"}
    assert files_of(audit.path) == [audit.path]
