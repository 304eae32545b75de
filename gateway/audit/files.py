"""The audit on disk: append-only files of JSON lines, one chain per replica, signed at checkpoints."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

from gateway import logs
from gateway.audit.base import Sealed
from gateway.audit.chain import GENESIS, INTEGER_MAX, seal, time_text
from gateway.audit.checkpoint import Checkpoint
from gateway.audit.directory import AuditUnusable, ClaimedChain, claim_chain
from gateway.audit.records import CheckpointMade, Recovered, SegmentsDropped
from gateway.audit.segments import begin_file, change_files, closed_segments, draft_path, end_link, expired
from gateway.audit.tail import Tail, read_tail, set_aside
from gateway.clock import Clock
from gateway.errors import RecordUnavailable
from gateway.whole_files import sync_directory

Durability = Literal["written", "synced"]

sync_data: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a chain is signed, cut into files and thinned out.

    A checkpoint follows every `checkpoint_records` records at the latest. A file that has grown to
    `file_bytes` is closed at the next checkpoint, and removed once all its records are older than
    `keep_days` (None: never).
    """

    sign: Callable[[Checkpoint], str]
    checkpoint_records: int = 1000
    file_bytes: int = 256 << 20
    keep_days: int | None = None


def open_file_audit(
    directory: Path,
    clock: Clock,
    durability: Durability = "written",
    sync: Callable[[int], None] = sync_data,
    keeping: Keeping | None = None,
) -> FileAudit:
    """Claims a chain in `directory` and continues it.

    What a crash left half written at its end is kept in a file beside it, and a `recovered` record says so.
    Without `keeping` the chain is not signed and grows in one file.
    Raises AuditUnusable when the directory or the end of the chain cannot be used.
    """
    chain = claim_chain(directory)
    try:
        tail = read_tail(chain)
        if not tail.torn:
            return FileAudit(chain, tail, clock, durability, sync, keeping)
        kept = set_aside(chain, tail)
        audit = FileAudit(chain, tail, clock, durability, sync, keeping)
        recovered = Recovered(
            torn_bytes=len(tail.torn), torn_sha256=hashlib.sha256(tail.torn).hexdigest(), kept_as=kept.name
        )
        audit.write(recovered.kind, recovered.fields())
        return audit
    except (OSError, RecordUnavailable) as error:
        os.close(chain.descriptor)
        raise AuditUnusable(
            f"`{chain.path}` cannot be continued: {error.__cause__ or error}; make room or repair the disk, "
            "then start again"
        ) from error
    except BaseException:
        os.close(chain.descriptor)
        raise


class FileAudit:
    """An `AuditSink` over one claimed chain file. Belongs to one event loop.

    `written`: a record is with the operating system when `append` returns; it survives a crash of the
    process, not a power cut. `synced`: it is on the disk; records that arrive while the disk works share one
    sync.

    A write that fails leaves no partial line behind and refuses only its own record: the next append tries
    again. A failed sync is final, because the system may have dropped what it could not write: every append
    is refused until a restart has read the file again.
    """

    def __init__(
        self,
        chain: ClaimedChain,
        tail: Tail,
        clock: Clock,
        durability: Durability,
        sync: Callable[[int], None],
        keeping: Keeping | None,
    ) -> None:
        self.path = chain.path
        self.durability = durability
        self._replica = chain.replica
        self._descriptor = chain.descriptor
        self._head = head = tail.head
        self._end = tail.end
        self._keeping = keeping
        first = end_link(chain.path, last=False)
        self._first = first.sequence if first is not None else head.sequence + 1
        # How many records the last checkpoint does not cover. After a restart nobody has counted them: the
        # next record is preceded by one.
        self._unsigned = 0 if head == GENESIS or tail.kind == CheckpointMade.kind else self._unsigned_max
        self._clock = clock
        self._partial = False
        self._closed = False
        self._sync = sync
        self._synced = head.sequence
        self._syncing: asyncio.Future[None] | None = None
        self._sync_failure: OSError | None = None
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit-sync")
        self.needed_from: Callable[[], int] = lambda: INTEGER_MAX  # the first record that must not go yet
        self._closing: list[Future[None]] = []  # of earlier files, which must be on the disk as well

    @property
    def replica(self) -> str:
        return self._replica

    @property
    def head(self) -> Sealed:
        return self._head

    async def append(self, kind: str, fields: Mapping[str, Any]) -> Sealed:
        """See `AuditSink.append`."""
        sealed = self.write(kind, fields)
        if self.durability == "synced":
            await self._wait_for_disk(sealed.sequence)
        return sealed

    def write(self, kind: str, fields: Mapping[str, Any]) -> Sealed:
        """Seals and writes one record without waiting for the disk. Raises RecordUnavailable."""
        if self._due:
            self.checkpoint()
        self._require_usable()
        line, sealed = seal(self._replica, self._head, kind, self._clock.now(), fields)
        self._write_line(line, sealed)
        self._unsigned += 1
        if self._due:
            with suppress(RecordUnavailable):  # this record is kept; the next one is not without a checkpoint
                self.checkpoint()
        return sealed

    def checkpoint(self) -> None:
        """Signs where the chain stands, unless nothing was recorded since; closes the file if it is full.

        Raises RecordUnavailable.
        """
        if self._keeping is None or not self._unsigned:
            return
        self._require_usable()
        now, head = self._clock.now(), self._head
        standing = Checkpoint(
            self._replica, head.sequence, head.hash, time_text(now), self._keeping.checkpoint_records
        )
        record = CheckpointMade(self._keeping.sign(standing))
        line, sealed = seal(self._replica, head, record.kind, now, record.fields())
        if self._end < self._keeping.file_bytes or not self._changed_files(line, sealed):
            self._write_line(line, sealed)
        self._unsigned = 0

    def drop_expired(self) -> int:
        """Removes closed files whose records are too old, and records that; how many were removed.

        Raises RecordUnavailable, and OSError when they cannot be read or removed.
        """
        if self._keeping is None or self._keeping.keep_days is None:
            return 0
        before = self._clock.now() - timedelta(days=self._keeping.keep_days)
        segments = expired(closed_segments(self.path.parent, self._replica), self.path, before)
        last = end_link(segments[-1].path, last=True) if segments else None
        while last is not None and last.sequence >= self.needed_from():
            segments = segments[:-1]
            last = end_link(segments[-1].path, last=True) if segments else None
        if last is None:
            return 0
        dropped = SegmentsDropped(
            segments[0].first, last.sequence, last.hash, len(segments), self._keeping.keep_days
        )
        self.write(dropped.kind, dropped.fields())  # before: what is missing then has been said to be
        for segment in segments:
            segment.path.unlink()
        sync_directory(self.path.parent)
        return len(segments)

    async def tend(self, every_s: float) -> None:
        """Checkpoints and thins out the chain from time to time; runs until cancelled."""
        while True:
            await self._clock.sleep(every_s)
            try:
                self.checkpoint()
                if dropped := self.drop_expired():
                    logs.event("audit_files_dropped", files=dropped)
            except RecordUnavailable:
                logs.event("audit_unavailable", logging.ERROR, record=CheckpointMade.kind)
            except OSError as error:
                logs.event("audit_files_kept", logging.ERROR, fault=str(error.strerror))

    async def aclose(self) -> None:
        """Puts everything on the disk and lets the chain go; safe to call twice."""
        if self._closed:
            return
        with suppress(RecordUnavailable):
            self.checkpoint()
        self._closed = True
        try:
            if self._synced < self._head.sequence and self._sync_failure is None:
                await self._wait_for_disk(self._head.sequence)
        finally:
            self._disk.shutdown(wait=True)
            os.close(self._descriptor)

    @property
    def _unsigned_max(self) -> int:
        return self._keeping.checkpoint_records if self._keeping is not None else 1

    @property
    def _due(self) -> bool:
        return self._keeping is not None and self._unsigned >= self._unsigned_max

    def _require_usable(self) -> None:
        """Raises RecordUnavailable."""
        if self._closed:
            raise _unavailable(OSError("the audit is closed"))
        if self._sync_failure is not None:
            raise _unavailable(self._sync_failure)

    def _write_line(self, line: bytes, sealed: Sealed) -> None:
        """Raises RecordUnavailable."""
        try:
            self._require_untouched()
            self._write_whole(line)
        except OSError as error:
            raise _unavailable(error) from error
        self._end += len(line)
        self._head = sealed

    def _changed_files(self, line: bytes, sealed: Sealed) -> bool:
        """Closes the file and begins the next with `line`; False where that fails, and all is as before.

        Raises RecordUnavailable when the file is not as it was left.
        """
        try:
            self._require_untouched()
        except OSError as error:
            raise _unavailable(error) from error
        try:
            descriptor = begin_file(self.path, line)
            try:
                change_files(self.path, self._first)
            except OSError:
                os.close(descriptor)
                draft_path(self.path).unlink(missing_ok=True)
                raise
        except OSError as error:
            logs.event("audit_file_full", logging.ERROR, fault=str(error.strerror))  # it grows on
            return False
        self._closing.append(self._disk.submit(self._sync_and_close, self._descriptor))
        self._descriptor, self._first = descriptor, sealed.sequence
        self._end, self._head = len(line), sealed
        return True

    def _sync_and_close(self, descriptor: int) -> None:
        """On the disk's thread; the directory, too, since a new file took a name in it."""
        try:
            self._sync(descriptor)
            sync_directory(self.path.parent)
        finally:
            os.close(descriptor)

    def _require_untouched(self) -> None:
        """Raises OSError when somebody else removed, cut or lengthened the file since the last record."""
        status = os.fstat(self._descriptor)
        if status.st_nlink == 0:
            raise OSError(f"`{self.path}` was removed while it was being written")
        if status.st_size != self._end:
            if not self._partial:
                raise OSError(f"`{self.path}` was changed by another program while it was being written")
            self._cut_partial_line()

    def _write_whole(self, line: bytes) -> None:
        written = os.write(self._descriptor, line)
        if written == len(line):
            return
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            self._partial = True
            self._cut_partial_line()
            raise

    def _cut_partial_line(self) -> None:
        os.ftruncate(self._descriptor, self._end)
        self._partial = False

    async def _wait_for_disk(self, sequence: int) -> None:
        while self._synced < sequence:
            if self._sync_failure is not None:
                raise _unavailable(self._sync_failure) from self._sync_failure
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync_once())
            # Shielded: a caller that gives up must not cancel the sync that others wait for.
            await asyncio.shield(self._syncing)

    async def _sync_once(self) -> None:
        reaches = self._head.sequence
        closing, self._closing = self._closing, []
        try:
            for earlier in closing:
                await asyncio.wrap_future(earlier)
            await asyncio.get_running_loop().run_in_executor(self._disk, self._sync, self._descriptor)
            self._synced = reaches
        except OSError as error:
            self._sync_failure = error
        finally:
            self._syncing = None


def _unavailable(cause: OSError) -> RecordUnavailable:
    """What the caller reads; the cause, which names files, is for the operator's log."""
    error = RecordUnavailable("the audit record cannot be written, so nothing was processed; try again later")
    error.__cause__ = cause
    return error
