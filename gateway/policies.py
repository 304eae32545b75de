"""The bundle in force: loaded whole, checked, then swapped in one assignment; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway import logs
from gateway.audit.base import AuditSink
from gateway.audit.records import PolicyLoaded, PolicyRefused
from gateway.errors import RecordUnavailable
from gateway.metrics import Metrics
from gateway.policy.bundle import Bundle
from gateway.policy.live import Admission, Live
from gateway.policy.problems import REFUSALS, reason_of
from gateway.policy.serials import Serials
from gateway.policy.source.directory import Files, read_directory
from gateway.policy.summary import Offered, Summary, describe

Fingerprint = tuple[tuple[str, int, int, int], ...]


class Policies:
    """Holds `current`. A request takes it once and keeps it: a swap never changes a decision under way."""

    def __init__(
        self, directory: Path, live: Live, admission: Admission, audit: AuditSink, metrics: Metrics,
        in_force: Callable[[Bundle], None],
    ) -> None:  # fmt: skip
        self.current = live.bundle
        self._files = live.files
        self._in_force = in_force
        self._directory = directory
        self._admit = admission.admit
        self._describe = describe
        self._serials: Serials = admission.serials
        self._audit = audit
        self._metrics = metrics
        self._seen = fingerprint(directory)
        self._one_at_a_time = asyncio.Lock()  # or a slow load could undo a later one
        metrics.policy_serial.set(live.bundle.serial)

    async def reload(self) -> bool:
        """Loads the directory again; True when another revision is now in force.

        A bundle that does not load, that is not vouched for, or whose backends cannot be built, is logged,
        counted and recorded, and the last good one stays.
        """
        async with self._one_at_a_time:
            return await self._reload()

    async def _reload(self) -> bool:
        self._seen = fingerprint(self._directory)
        offered: Files | None = None
        try:
            offered = await asyncio.to_thread(read_directory, self._directory)
            live = await asyncio.to_thread(self._admit, offered)
            if live.bundle.revision == self.current.revision:
                return False
            # Before the swap, or requests of the new revision would be recorded before its load.
            told = await asyncio.to_thread(self._describe, self._files, live.files)
            await self._put_in_force(live.bundle)
        except Exception as refused:  # whatever a load meets must not end the watching
            await self._refuse(refused, offered)
            return False
        before, self.current, self._files = self.current, live.bundle, live.files
        bundle = live.bundle
        self._metrics.policy_loads.labels("loaded").inc()
        self._metrics.policy_serial.set(bundle.serial)
        logs.event("policy_loaded", revision=bundle.revision, serial=bundle.serial, before=before.revision)
        await record(self._audit, loaded_record(live, before.revision, told.summary))
        return True

    async def _put_in_force(self, bundle: Bundle) -> None:
        """Raises one of REFUSALS, and then nothing has changed."""
        before = await asyncio.to_thread(self._serials.advance, bundle.revision, bundle.serial)
        try:
            self._in_force(bundle)
        except Exception:
            await asyncio.to_thread(self._serials.withdraw, bundle.revision, before)
            raise

    async def _refuse(self, refused: Exception, offered: Files | None) -> None:
        kept = self.current.revision
        told = None
        if offered is not None:
            told = await asyncio.to_thread(self._describe, self._files, offered)
        said = refusal_of(refused, kept, offered, told)
        self._metrics.policy_loads.labels("refused").inc()
        if isinstance(refused, REFUSALS):
            # A bundle is the operator's text, not a caller's: its problems may be logged in full.
            logs.event("policy_refused", logging.ERROR, problems=str(refused), reason=said.reason, kept=kept)
        else:
            logs.event("policy_unreadable", logging.ERROR, exc_info=refused, kept=kept)
        await record(self._audit, said)

    async def watch(self, poll_s: float) -> None:
        """Reloads when the directory, or what a symlink points to, has changed; runs until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            if fingerprint(self._directory) != self._seen:
                await self.reload()


async def first_load(directory: Path, admission: Admission, audit: AuditSink) -> Live:
    """The bundle to start with. One that is refused is recorded; raises one of REFUSALS."""
    offered: Files | None = None
    try:
        offered = await asyncio.to_thread(read_directory, directory)
        return await asyncio.to_thread(admission.admit, offered)
    except REFUSALS as refused:
        await record_refused_start(audit, refused, offered)
        raise


async def first_in_force(live: Live, admission: Admission, audit: AuditSink) -> None:
    """Remembers and records the bundle that was started with; raises one of REFUSALS, as `first_load` does,
    when another worker has meanwhile put a newer one in force."""
    bundle = live.bundle
    try:
        await asyncio.to_thread(admission.serials.advance, bundle.revision, bundle.serial)
    except REFUSALS as refused:
        await record_refused_start(audit, refused, live.files)
        raise


async def record_refused_start(audit: AuditSink, refused: Exception, offered: Files | None) -> None:
    told = None if offered is None else await asyncio.to_thread(describe, None, offered)
    await record(audit, refusal_of(refused, None, offered, told))


def refusal_of(
    refused: Exception, kept: str | None, offered: Files | None, told: Offered | None
) -> PolicyRefused:
    """`kept` is None at a start, `offered` and `told` where the files could not even be read."""
    problems = places_of(refused)
    return PolicyRefused(
        kept,
        len(problems),
        problems,
        reason_of(refused),
        revision=None if offered is None else offered.revision,
        serial=None if told is None else told.serial,
        summary=None if told is None else fields_of(told.summary),
    )


async def record(audit: AuditSink, said: PolicyLoaded | PolicyRefused) -> None:
    try:
        await audit.append(said.kind, said.fields())
    except RecordUnavailable:
        logs.event("audit_unavailable", logging.ERROR, record=said.kind)


def loaded_record(live: Live, previous: str | None, summary: Summary | None) -> PolicyLoaded:
    bundle = live.bundle
    return PolicyLoaded(
        bundle.revision,
        bundle.serial,
        previous,
        len(bundle.rules),
        len(bundle.places),
        len(bundle.tenants),
        signed_by=live.signed_by,
        summary=fields_of(summary),
    )


def fields_of(summary: Summary | None) -> Mapping[str, Any] | None:
    return None if summary is None else summary.fields()


def places_of(refused: Exception) -> tuple[str, ...]:
    """`file:line` of each problem, where the refusal names them."""
    problems = getattr(refused, "problems", ())
    return tuple(f"{problem.file}:{problem.line}" for problem in problems)


def fingerprint(directory: Path) -> Fingerprint:
    """Path, time, size and inode of every file of the bundle, through symlinks; empty without one."""
    try:
        root = directory.resolve(strict=True)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return tuple(
            (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
            for path in files
            for stat in [path.stat()]
        )
    except OSError:
        return ()
