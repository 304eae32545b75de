"""The candidate in a running gateway: loaded like a bundle in force, asked about every request that ended.

The live bundle alone decides. A candidate is asked once the request has been concluded; whatever goes wrong
with it is counted and logged, and reaches no request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from gateway import logs
from gateway.audit.base import AuditSink
from gateway.audit.chain import time_text
from gateway.audit.records import Canary, CanaryAction
from gateway.clock import Clock
from gateway.errors import RecordUnavailable
from gateway.metrics import Metrics
from gateway.places import Action
from gateway.policies import Policies, fingerprint
from gateway.policy.bundle import Bundle
from gateway.policy.problems import REFUSALS
from gateway.shadow.disagreement import disagreement
from gateway.shadow.judgement import Asked, Here, judge
from gateway.shadow.tally import Tally, save
from gateway.trail import Trail

if TYPE_CHECKING:
    from gateway.context import GatewayContext

SAVE_EVERY_S: Final = 5.0
Load = Callable[[Path], Bundle]


class Shadow(Protocol):
    """Told of every request that has ended."""

    def judge(self, trail: Trail, context: GatewayContext) -> None:
        """Never raises."""


class NoShadow:
    """No candidate is configured."""

    def judge(self, trail: Trail, context: GatewayContext) -> None:
        """Asks nobody."""


class Candidate:
    """A `Shadow` over the bundle in `directory`, while there is one."""

    def __init__(
        self, directory: Path, load: Load, policies: Policies, audit: AuditSink, metrics: Metrics,
        clock: Clock, saved: Path,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._load = load
        self._policies = policies
        self._audit = audit
        self._metrics = metrics
        self._clock = clock
        self._saved = saved
        self._seen: object = None
        self._written = -1
        self.bundle: Bundle | None = None
        self.tally: Tally | None = None

    def judge(self, trail: Trail, context: GatewayContext) -> None:
        """See `Shadow.judge`. A request whose body was never read as one cannot be judged."""
        candidate, tally = self.bundle, self._tally()
        if candidate is None or tally is None or trail.chat is None:
            return
        try:
            live = self._policies.current
            asked, here = asked_of(trail, context), here_of(live, context)
            found = disagreement(judge(asked, live, here), judge(asked, candidate, here))
            place = context.settings.audit_place
            listed = trail.permitted is not None and trail.permitted.allows(Action.RECORD, place)
            request = trail.incoming.request_id if listed else None
            tally.add(found, time_text(self._clock.now()), request, listed=listed)
            self._metrics.shadow.labels(found.kind if found is not None else "agreed").inc()
        except Exception:
            tally.failed += 1
            self._metrics.shadow.labels("failed").inc()
            if tally.failed == 1:  # the first tells enough
                logs.event("shadow_failed", logging.ERROR, exc_info=True, revision=candidate.revision)

    async def look(self) -> None:
        """Takes up a candidate that came, changed, or went, or that has come into force."""
        seen = fingerprint(self._directory)
        gone = not seen and self.bundle is not None
        if gone:
            await (
                self._policies.reload()
            )  # it may have taken the live one's place, which is not looked at yet
        if self.bundle is not None and self.bundle.revision == self._policies.current.revision:
            await self._end("promoted")
        if seen != self._seen:
            self._seen = seen
            await (self._take() if seen else self._end("ended"))

    async def watch(self, poll_s: float) -> None:
        """Looks again and again, and saves what was counted; runs until cancelled."""
        while True:
            await self.look()
            await self.save()
            await asyncio.sleep(min(poll_s, SAVE_EVERY_S))

    async def save(self) -> None:
        """Writes the count down, if it has grown."""
        tally = self.tally
        if tally is None or tally.judged + tally.failed == self._written:
            return
        self._written, saved = tally.judged + tally.failed, tally.saved()
        try:
            await asyncio.to_thread(save, self._saved, self._audit.replica, saved)
        except OSError as error:
            logs.event("shadow_not_saved", logging.ERROR, fault=str(error.strerror))

    def _tally(self) -> Tally | None:
        """The count of this candidate beside this live bundle; a new one where either has changed."""
        candidate, live = self.bundle, self._policies.current
        if candidate is None or candidate.revision == live.revision:
            return None
        tally = self.tally
        if tally is None or (tally.live, tally.candidate) != (live.revision, candidate.revision):
            self._written = -1
            tally = self.tally = Tally(live.revision, candidate.revision, candidate.serial)
        return tally

    async def _take(self) -> None:
        try:
            bundle = await asyncio.to_thread(self._load, self._directory)
        except REFUSALS as refused:
            logs.event("shadow_refused", logging.ERROR, problems=str(refused))
            self._metrics.shadow_loads.labels("refused").inc()
            await self._end("ended")
            return
        except Exception:
            logs.event("shadow_unreadable", logging.ERROR, exc_info=True)
            self._metrics.shadow_loads.labels("refused").inc()
            await self._end("ended")
            return
        if self.bundle is not None and self.bundle.revision == bundle.revision:
            return
        await self._end("ended")
        self._metrics.shadow_loads.labels("loaded").inc()
        if bundle.revision == self._policies.current.revision:
            return
        self.bundle = bundle
        logs.event("shadow_loaded", revision=bundle.revision, serial=bundle.serial)
        await self._record("began", bundle, None)

    async def _end(self, action: CanaryAction) -> None:
        bundle, tally = self.bundle, self.tally
        if bundle is None:
            return
        await self.save()
        self.bundle = self.tally = None
        logs.event(f"shadow_{action}", revision=bundle.revision, serial=bundle.serial)
        await self._record(action, bundle, tally)

    async def _record(self, action: CanaryAction, bundle: Bundle, tally: Tally | None) -> None:
        record = Canary(
            action, bundle.revision, bundle.serial, tally.live if tally else self._policies.current.revision,
            tally.judged if tally else 0, tally.disagreements if tally else 0,
        )  # fmt: skip
        try:
            await self._audit.append(record.kind, record.fields())
        except RecordUnavailable:
            logs.event("audit_unavailable", logging.ERROR, record=record.kind)


def asked_of(trail: Trail, context: GatewayContext) -> Asked:
    """What either bundle is asked. The model is the one that the caller wrote, aliases and all."""
    assert trail.chat is not None
    conversation = trail.conversation
    return Asked(
        trail.incoming.authorization,
        trail.chat.model,
        trail.incoming.labels,
        frozenset(trail.past.names()) if trail.past is not None else frozenset(),
        trail.detected,
        context.backends.unable(trail.chat, trail.facts.model) if trail.facts is not None else {},
        conversation.affinity if conversation is not None else "",
    )


def here_of(live: Bundle, context: GatewayContext) -> Here:
    return Here(
        context.demo_keys,
        context.backends.keys(),
        live.places.keys(),
        context.needs,
        context.health.snapshot(),
        context.clock.monotonic_s(),
    )
