"""The audit on disk: what survives a restart, a crash, a full disk and a second process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.chain import GENESIS, unseal
from gateway.audit.directory import AuditUnusable
from gateway.audit.files import Durability, FileAudit, open_file_audit
from gateway.audit.verify import verify_files
from gateway.clock import ManualClock
from gateway.errors import RecordUnavailable

from .chains import chain, line_of


def opened(directory: Path, durability: Durability = "written", **options: Any) -> FileAudit:
    return open_file_audit(directory, ManualClock(), durability, **options)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def kinds(path: Path) -> list[str]:
    return [unseal(line).kind for line in lines(path)]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_new_directory_gets_one_private_file_named_after_the_replica(tmp_path: Path) -> None:
    audit = opened(tmp_path / "var" / "audit")
    assert audit.head == GENESIS

    sealed = await audit.append("begin", {"request": "req_1"})

    assert [path.name for path in (tmp_path / "var" / "audit").iterdir()] == [f"{audit.replica}.jsonl"]
    assert (mode(tmp_path / "var" / "audit"), mode(audit.path)) == (0o700, 0o600)
    assert (sealed, audit.head) == (audit.head, sealed)
    (line,) = lines(audit.path)
    record = json.loads(line)
    assert record == {
        "v": 1, "replica": audit.replica, "seq": 1, "time": "2026-01-01T00:00:00.000000Z", "kind": "begin",
        "prev": "0" * 64, "request": "req_1", "hash": sealed.hash,
    }  # fmt: skip
    await audit.aclose()


async def test_a_restart_continues_the_same_chain(tmp_path: Path) -> None:
    first = opened(tmp_path / "audit")
    for number in range(3):
        await first.append("begin", {"request": f"req_{number}"})
    await first.aclose()

    second = opened(tmp_path / "audit")
    assert (second.replica, second.head, second.path) == (first.replica, first.head, first.path)
    await second.append("end", {"request": "req_0"})
    await second.aclose()

    (report,) = verify_files([second.path])
    assert (report.intact, report.records, report.head) == (True, 4, second.head.hash)


async def test_a_long_last_record_is_found_again(tmp_path: Path) -> None:
    first = opened(tmp_path / "audit")
    for size in (10, 300_000, 900_000):
        await first.append("begin", {"request": "x" * size})
    await first.aclose()

    second = opened(tmp_path / "audit")

    assert second.head == first.head
    await second.aclose()


async def test_two_processes_in_one_directory_write_two_chains_and_take_them_up_again(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "audit"), opened(tmp_path / "audit")
    assert first.replica != second.replica
    await asyncio.gather(*(audit.append("begin", {}) for audit in (first, second) for _ in range(5)))
    await first.aclose()
    await second.aclose()

    again = opened(tmp_path / "audit")

    assert again.replica in {first.replica, second.replica}
    assert again.head.sequence == 5
    assert len(list((tmp_path / "audit").iterdir())) == 2
    await again.aclose()


async def test_another_process_does_not_write_a_chain_that_is_held(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit")
    program = """
        import sys
        from pathlib import Path
        from gateway.audit.files import open_file_audit
        from gateway.clock import SystemClock
        print(open_file_audit(Path(sys.argv[1]), SystemClock()).replica)
    """
    other = run(program, str(tmp_path / "audit"))

    assert other.strip() != audit.replica
    await audit.aclose()


async def test_a_line_that_a_crash_cut_is_kept_aside_and_recorded(tmp_path: Path) -> None:
    first = opened(tmp_path / "audit")
    await first.append("begin", {"request": "req_1"})
    await first.append("begin", {"request": "req_2"})
    await first.aclose()
    whole = first.path.read_bytes()
    torn = lines(first.path)[1][:57]
    first.path.write_bytes(whole + torn)

    second = opened(tmp_path / "audit")

    recovered = json.loads(lines(second.path)[-1])
    kept = tmp_path / "audit" / recovered["kept_as"]
    assert (kept.read_bytes(), mode(kept)) == (torn, 0o600)
    assert (recovered["kind"], recovered["seq"], recovered["torn_bytes"], recovered["torn_sha256"]) == (
        "recovered", 3, 57, hashlib.sha256(torn).hexdigest(),
    )  # fmt: skip
    assert second.path.read_bytes().startswith(whole)
    await second.append("end", {"request": "req_1"})
    await second.aclose()
    (report,) = verify_files([second.path])
    assert (report.intact, report.records) == (True, 4)
    assert [(warning.line, warning.code) for warning in report.warnings] == [(3, "recovered")]


@pytest.mark.parametrize("torn", [b"{", b"\x00" * 4096, b'{"a":1}', b"x" * 200_000])
async def test_a_chain_of_which_only_a_torn_line_exists_begins_with_its_recovery(
    tmp_path: Path, torn: bytes
) -> None:
    first = opened(tmp_path / "audit")
    await first.aclose()
    first.path.write_bytes(torn)

    second = opened(tmp_path / "audit")

    assert (second.replica, second.head.sequence, kinds(second.path)) == (first.replica, 1, ["recovered"])
    await second.aclose()


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (b"{}", "does not end with the member `hash`"),
        (line_of({**chain(1)[0], "tenant": "globex-us"}), "its hash does not fit its content"),
        (line_of(chain(1, replica="f" * 16)[0]), "it is of replica `ffffffffffffffff`"),
        (b"x" * 3_000_000, "where a record must have ended"),
    ],
)
async def test_a_chain_whose_end_was_altered_is_not_continued(
    tmp_path: Path, last: bytes, reason: str
) -> None:
    audit = opened(tmp_path / "audit")
    await audit.aclose()
    path = audit.path.rename(audit.path.with_name("0123456789abcdef.jsonl"))
    path.write_bytes(last + b"\n" if len(last) < 3_000_000 else last)

    with pytest.raises(AuditUnusable, match=reason):
        opened(tmp_path / "audit")

    # The refusal holds nothing open: with the file moved away, a new chain begins.
    path.rename(tmp_path / "altered.jsonl")
    await opened(tmp_path / "audit").aclose()


@pytest.mark.parametrize("permissions", [0o755, 0o750, 0o701])
async def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path, permissions: int) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit").chmod(permissions)

    with pytest.raises(AuditUnusable, match="run `chmod 700"):
        opened(tmp_path / "audit")


async def test_a_chain_that_others_can_read_is_refused(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit")
    await audit.aclose()
    audit.path.chmod(0o640)

    with pytest.raises(AuditUnusable, match="run `chmod 600"):
        opened(tmp_path / "audit")


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(AuditUnusable, match="cannot be used: Not a directory"):
        opened(tmp_path / "file" / "audit")


async def test_a_chain_that_is_a_link_is_refused(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit")
    await audit.aclose()
    target = audit.path.rename(tmp_path / "elsewhere.jsonl")
    audit.path.symlink_to(target)

    with pytest.raises(AuditUnusable, match="cannot be used"):
        opened(tmp_path / "audit")


def run(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def test_a_full_disk_refuses_records_leaves_no_partial_line_and_heals(tmp_path: Path) -> None:
    # A file size limit of the kernel's cuts a write short and then refuses it, as a full disk does.
    program = """
        import asyncio, json, resource, sys
        from pathlib import Path
        from gateway.audit.files import open_file_audit
        from gateway.clock import ManualClock
        from gateway.errors import RecordUnavailable

        def limit(size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        async def main():
            audit = open_file_audit(Path(sys.argv[1]), ManualClock())
            await audit.append("begin", {"request": "req_1"})
            whole = audit.path.stat().st_size
            seen = []
            for room in (0, 1, 100):
                limit(whole + room)
                try:
                    await audit.append("begin", {"request": "req_2"})
                    seen.append("written")
                except RecordUnavailable as error:
                    seen.append([error.message, audit.path.stat().st_size - whole, audit.head.sequence])
            limit(resource.RLIM_INFINITY)
            await audit.append("begin", {"request": "req_3"})
            await audit.aclose()
            print(json.dumps([str(audit.path), seen]))

        asyncio.run(main())
    """
    path, seen = json.loads(run(program, str(tmp_path / "audit")))

    message = "the audit record cannot be written, so nothing was processed; try again later"
    assert seen == [[message, 0, 1]] * 3
    (report,) = verify_files([Path(path)])
    assert (report.intact, report.records, report.last) == (True, 2, 2)


async def test_a_partial_line_that_could_not_be_cut_off_at_once_is_cut_off_by_the_next_record(
    tmp_path: Path,
) -> None:
    audit = opened(tmp_path / "audit")
    await audit.append("begin", {"request": "req_1"})
    with audit.path.open("ab") as disk:
        disk.write(b'{"kind":"beg')
    audit._partial = True  # what a write that failed half way leaves when the cut fails as well

    await audit.append("begin", {"request": "req_2"})

    assert [unseal(line).sequence for line in lines(audit.path)] == [1, 2]
    await audit.aclose()


async def test_the_refusal_names_no_file_to_the_caller_but_its_cause_does(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit")
    audit.path.unlink()

    with pytest.raises(RecordUnavailable) as caught:
        await audit.append("begin", {})

    assert str(tmp_path) not in str(caught.value.body())
    assert str(caught.value.__cause__) == f"`{audit.path}` was removed while it was being written"
    await audit.aclose()


@pytest.mark.parametrize("size", [0, 40, 5000])
async def test_a_file_that_somebody_else_changes_meanwhile_is_not_written_on(
    tmp_path: Path, size: int
) -> None:
    audit = opened(tmp_path / "audit")
    await audit.append("begin", {})
    os.truncate(audit.path, size)

    with pytest.raises(RecordUnavailable) as caught:
        await audit.append("end", {})

    assert "was changed by another program" in str(caught.value.__cause__)
    assert audit.path.stat().st_size == size
    await audit.aclose()


async def test_a_closed_audit_refuses(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit")
    await audit.aclose()
    await audit.aclose()

    with pytest.raises(RecordUnavailable):
        await audit.append("begin", {})


class SlowDisk:
    """Counts syncs; each one waits until it is let through."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.let_through = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)
        self.failure: OSError | None = None

    def __call__(self, descriptor: int) -> None:
        self.sizes.append(os.fstat(descriptor).st_size)
        self._begun.release()
        self.let_through.acquire()
        if self.failure is not None:
            raise self.failure

    async def begins(self) -> None:
        """Returns when one more sync is at work."""
        await asyncio.to_thread(self._begun.acquire)


async def test_records_that_arrive_while_the_disk_works_share_one_sync(tmp_path: Path) -> None:
    disk = SlowDisk()
    audit = opened(tmp_path / "audit", "synced", sync=disk)
    first = asyncio.create_task(audit.append("begin", {"request": "req_0"}))
    await disk.begins()
    others = [asyncio.create_task(audit.append("begin", {"request": f"req_{n}"})) for n in range(1, 17)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in (first, *others))

    disk.let_through.release()
    await first
    await disk.begins()
    assert not any(task.done() for task in others)
    disk.let_through.release()
    sealed = await asyncio.gather(*others)

    assert [one.sequence for one in sealed] == list(range(2, 18))
    assert len(disk.sizes) == 2
    assert disk.sizes[1] == audit.path.stat().st_size
    await audit.aclose()


async def test_a_caller_that_gives_up_does_not_cancel_the_sync_of_the_others(tmp_path: Path) -> None:
    disk = SlowDisk()
    audit = opened(tmp_path / "audit", "synced", sync=disk)
    impatient = asyncio.create_task(audit.append("begin", {}))
    patient = asyncio.create_task(audit.append("begin", {}))
    await disk.begins()

    impatient.cancel()
    disk.let_through.release(2)

    assert (await patient).sequence == 2
    assert impatient.cancelled()
    await audit.aclose()


async def test_a_failed_sync_refuses_every_waiter_and_all_that_follow_until_a_restart(tmp_path: Path) -> None:
    disk = SlowDisk()
    audit = opened(tmp_path / "audit", "synced", sync=disk)
    waiters = [asyncio.create_task(audit.append("begin", {})) for _ in range(3)]
    await disk.begins()
    disk.failure = OSError(5, "Input/output error")
    disk.let_through.release()

    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(result) for result in results] == [RecordUnavailable] * 3
    with pytest.raises(RecordUnavailable) as caught:
        await audit.append("begin", {})
    assert str(caught.value.__cause__) == "[Errno 5] Input/output error"

    await audit.aclose()
    again = opened(tmp_path / "audit")
    assert (await again.append("begin", {})).sequence == 4
    await again.aclose()


async def test_written_records_are_put_on_the_disk_at_the_end(tmp_path: Path) -> None:
    disk = SlowDisk()
    disk.let_through.release(5)
    audit = opened(tmp_path / "audit", sync=disk)
    for _ in range(20):
        await audit.append("begin", {})
    assert disk.sizes == []

    await audit.aclose()

    assert disk.sizes == [audit.path.stat().st_size]


async def test_records_of_many_tasks_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    audit = opened(tmp_path / "audit", "synced")

    async def request(number: int) -> None:
        began = await audit.append("begin", {"request": f"req_{number}"})
        await audit.append("end", {"request": f"req_{number}", "began": began.sequence})

    await asyncio.gather(*(request(number) for number in range(100)))
    await audit.aclose()

    (report,) = verify_files([audit.path])
    assert (report.intact, report.records, report.unfinished) == (True, 200, ())
    records = [unseal(line) for line in lines(audit.path)]
    begins = {r.fields["request"]: r.sequence for r in records if r.kind == "begin"}
    assert all(begins[r.fields["request"]] == r.fields["began"] for r in records if r.kind == "end")
