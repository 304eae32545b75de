"""Copies this process's chain into the bucket, behind the requests: the files on the disk are the queue.

Nothing waits for S3 and nothing is dropped: while it is away, the files grow, and what retention would remove
stays until it has been copied.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from errno import EBADMSG
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from gateway import logs
from gateway.audit.chain import NotARecord, unseal
from gateway.audit.files import FileAudit
from gateway.audit.s3 import Bucket, BucketUnavailable, BucketUnusable
from gateway.audit.segments import Segment, closed_segments
from gateway.clock import Clock
from gateway.metrics import Metrics

OBJECT_BYTES_MAX: Final = 4 << 20
BACKOFF_MAX_S: Final = 300.0
CLOSE_S: Final = 10.0  # for what is left when the gateway stops


class AuditCopies(Protocol):
    """A second place of the audit."""

    async def open(self) -> None:
        """Looks whether the place can be used at all. Raises `BucketUnusable`."""
        ...

    async def watch(self) -> None:
        """Copies again and again; runs until cancelled."""
        ...

    async def aclose(self) -> None:
        """Copies what is left, within a bound of time."""
        ...


class NoCopies:
    """There is no second place."""

    async def open(self) -> None:
        """Nothing is asked."""

    async def watch(self) -> None:
        """Copies nothing."""

    async def aclose(self) -> None:
        """Nothing is left."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole lines with the records `first` to `last`; `end` is where they end in the file with this inode."""

    lines: bytes
    first: int
    last: int
    inode: int
    end: int


class S3Copies:
    """`AuditCopies` in a bucket of S3."""

    def __init__(
        self, audit: FileAudit, bucket: Bucket, retain_days: int, interval_s: float, metrics: Metrics,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._audit = audit
        self._bucket = bucket
        self._retain = timedelta(days=retain_days)
        self._interval_s = interval_s
        self._metrics = metrics
        self._clock = clock
        self._copied: int | None = None  # the last record in the bucket; None until it was asked
        self._ends: dict[int, int] = {}  # inode -> how far a file has been copied
        self._works = True
        self._one_at_a_time = asyncio.Lock()
        audit.needed_from = lambda: (self._copied or 0) + 1

    async def open(self) -> None:
        """See `AuditCopies.open`. A bucket that does not answer is asked again later."""
        try:
            await asyncio.to_thread(self._bucket.require_lock)
        except BucketUnavailable as away:
            self._failed(away)

    async def copy(self) -> None:
        """Copies whatever is not there yet. Raises `BucketUnavailable`, `BucketUnusable` and OSError."""
        async with self._one_at_a_time:
            if self._copied is None:
                await asyncio.to_thread(self._bucket.require_lock)
                self._copied = await asyncio.to_thread(self._bucket.last_copied)
            until = self._clock.now() + self._retain
            while batch := await asyncio.to_thread(self._next, self._copied):
                await asyncio.to_thread(self._bucket.put, batch.lines, batch.first, batch.last, until)
                self._copied = batch.last
                self._ends[batch.inode] = batch.end
            self._metrics.audit_behind.set(self._audit.head.sequence - self._copied)

    async def watch(self) -> None:
        wait_s = self._interval_s
        while True:
            await self._clock.sleep(wait_s)
            try:
                await self.copy()
            except (BucketUnavailable, BucketUnusable, OSError) as error:
                self._failed(error)
                wait_s = min(max(2 * wait_s, 1.0), BACKOFF_MAX_S)
                continue
            if not self._works:
                logs.event("audit_copies_available")
            self._works, wait_s = True, self._interval_s

    async def aclose(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.copy()
        except (BucketUnavailable, BucketUnusable, OSError, TimeoutError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._metrics.audit_behind.set(self._audit.head.sequence - (self._copied or 0))
        if self._works:
            logs.event("audit_copies_unavailable", logging.ERROR, fault=str(error) or type(error).__name__)
        self._works = False

    def _next(self, copied: int) -> Batch | None:
        """The next lines that are not in the bucket, of one file. Raises OSError."""
        live = self._audit.path
        while True:
            closed = closed_segments(live.parent, live.stem)
            for path in (*later_files(closed, copied), live):
                with path.open("rb") as file:
                    inode = os.fstat(file.fileno()).st_ino
                    file.seek(self._ends.get(inode, 0))
                    batch = read_batch(file, copied, inode)
                if batch is not None:
                    break
            # A file that was closed meanwhile stood in neither place: look again.
            if closed == closed_segments(live.parent, live.stem):
                return batch


def later_files(closed: Sequence[Segment], copied: int) -> Iterator[Path]:
    """Of the closed files, the oldest first, those that may hold a later record than this one."""
    for index, segment in enumerate(closed):
        if index + 1 == len(closed) or closed[index + 1].first > copied + 1:
            yield segment.path


def read_batch(file: BinaryIO, copied: int, inode: int) -> Batch | None:
    """Whole lines after record `copied`, from where the file stands; what is being written is left.

    Raises OSError at a line that is no record any more: what follows it is not vouched for.
    """
    lines: list[bytes] = []
    size, first, last, end = 0, 0, copied, file.tell()
    while size < OBJECT_BYTES_MAX and (line := file.readline()).endswith(b"\n"):
        try:
            link = unseal(line[:-1])
        except NotARecord:
            raise OSError(EBADMSG, f"the line after record {last} was altered") from None
        end += len(line)
        if link.sequence > copied:
            lines.append(line)
            size += len(line)
            first, last = first or link.sequence, link.sequence
    return Batch(b"".join(lines), first, last, inode, end) if lines else None
