"""The bundle in force: loaded whole, checked, then swapped in one assignment; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from gateway import logs
from gateway.audit.base import AuditSink
from gateway.audit.records import PolicyLoaded, PolicyRefused
from gateway.errors import RecordUnavailable
from gateway.metrics import Metrics
from gateway.policy.bundle import Bundle

Fingerprint = tuple[tuple[str, int, int, int], ...]
Loader = Callable[[Path], Bundle]


class Policies:
    """Holds `current`. A request takes it once and keeps it: a swap never changes a decision under way."""

    def __init__(
        self, directory: Path, bundle: Bundle, load: Loader, refusals: tuple[type[Exception], ...],
        audit: AuditSink, metrics: Metrics, in_force: Callable[[Bundle], None],
    ) -> None:  # fmt: skip
        self.current = bundle
        self._in_force = in_force
        self._directory = directory
        self._load = load
        self._refusals = refusals
        self._audit = audit
        self._metrics = metrics
        self._seen = fingerprint(directory)
        self._one_at_a_time = asyncio.Lock()  # or a slow load could undo a later one
        metrics.policy_serial.set(bundle.serial)

    async def reload(self) -> bool:
        """Loads the directory again; True when another revision is now in force.

        A bundle that does not load, or whose backends cannot be built, is logged, counted and recorded, and
        the last good one stays.
        """
        async with self._one_at_a_time:
            return await self._reload()

    async def _reload(self) -> bool:
        self._seen = fingerprint(self._directory)
        try:
            bundle = await asyncio.to_thread(self._load, self._directory)
            if bundle.revision == self.current.revision:
                return False
            self._in_force(bundle)
        except self._refusals as refused:
            self._metrics.policy_loads.labels("refused").inc()
            # A bundle is the operator's text, not a caller's: its problems may be logged in full.
            logs.event("policy_refused", logging.ERROR, problems=str(refused), kept=self.current.revision)
            problems = places_of(refused)
            await self._record(PolicyRefused(self.current.revision, len(problems), problems))
            return False
        except Exception:
            # Whatever else a load meets must not end the watching.
            self._metrics.policy_loads.labels("refused").inc()
            logs.event("policy_unreadable", logging.ERROR, exc_info=True, kept=self.current.revision)
            await self._record(PolicyRefused(self.current.revision, 0, ()))
            return False
        before, self.current = self.current, bundle
        self._metrics.policy_loads.labels("loaded").inc()
        self._metrics.policy_serial.set(bundle.serial)
        logs.event("policy_loaded", revision=bundle.revision, serial=bundle.serial, before=before.revision)
        await self._record(loaded_record(bundle, before.revision))
        return True

    async def watch(self, poll_s: float) -> None:
        """Reloads when the directory, or what a symlink points to, has changed; runs until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            if fingerprint(self._directory) != self._seen:
                await self.reload()

    async def _record(self, record: PolicyLoaded | PolicyRefused) -> None:
        try:
            await self._audit.append(record.kind, record.fields())
        except RecordUnavailable:
            logs.event("audit_unavailable", logging.ERROR, record=record.kind)


def loaded_record(bundle: Bundle, previous: str | None) -> PolicyLoaded:
    return PolicyLoaded(
        bundle.revision, bundle.serial, previous, len(bundle.rules), len(bundle.places), len(bundle.tenants)
    )


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
