"""The audit on disk: one append-only file of JSON lines per replica."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

from gateway.audit.base import Sealed
from gateway.audit.chain import seal
from gateway.audit.directory import AuditUnusable, ClaimedChain, claim_chain
from gateway.audit.records import Recovered
from gateway.audit.tail import read_tail, set_aside
from gateway.clock import Clock
from gateway.errors import RecordUnavailable

Durability = Literal["written", "synced"]

sync_data: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def open_file_audit(
    directory: Path,
    clock: Clock,
    durability: Durability = "written",
    sync: Callable[[int], None] = sync_data,
) -> FileAudit:
    """Claims a chain in `directory` and continues it.

    What a crash left half written at its end is kept in a file beside it, and a `recovered` record says so.
    Raises AuditUnusable when the directory or the end of the chain cannot be used.
    """
    chain = claim_chain(directory)
    try:
        tail = read_tail(chain)
        if not tail.torn:
            return FileAudit(chain, tail.head, tail.end, clock, durability, sync)
        kept = set_aside(chain, tail)
        audit = FileAudit(chain, tail.head, tail.end, clock, durability, sync)
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
        head: Sealed,
        end: int,
        clock: Clock,
        durability: Durability,
        sync: Callable[[int], None],
    ) -> None:
        self.path = chain.path
        self.durability = durability
        self._replica = chain.replica
        self._descriptor = chain.descriptor
        self._head = head
        self._end = end
        self._clock = clock
        self._partial = False
        self._closed = False
        self._sync = sync
        self._synced = head.sequence
        self._syncing: asyncio.Future[None] | None = None
        self._sync_failure: OSError | None = None
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit-sync")

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
        if self._closed:
            raise _unavailable(OSError("the audit is closed"))
        if self._sync_failure is not None:
            raise _unavailable(self._sync_failure)
        line, sealed = seal(self._replica, self._head, kind, self._clock.now(), fields)
        try:
            self._require_untouched()
            self._write_whole(line)
        except OSError as error:
            raise _unavailable(error) from error
        self._end += len(line)
        self._head = sealed
        return sealed

    async def aclose(self) -> None:
        """Puts everything on the disk and lets the chain go; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._synced < self._head.sequence and self._sync_failure is None:
                await self._wait_for_disk(self._head.sequence)
        finally:
            self._disk.shutdown(wait=True)
            os.close(self._descriptor)

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
        try:
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
