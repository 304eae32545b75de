"""The content log: what was asked and answered, where `log` is permitted; digests where only `record` is.

A request leaves its story in a queue and goes on. A thread of its own takes one story after the other, asks
the bundles, seals and writes. The queue is bounded in entries and in bytes: what finds it full is dropped and
counted, because no answer waits for a log.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gateway import logs
from gateway.backends.base import Backend
from gateway.errors import TenantErased
from gateway.metrics import Metrics
from gateway.places import Action
from gateway.receipts.assemble import Ending
from gateway.sinks.detail import Detail, detail
from gateway.sinks.entry import line_of
from gateway.sinks.files import RotatedFiles
from gateway.sinks.story import Story, story_of
from gateway.trail import Trail

if TYPE_CHECKING:
    from gateway.context import GatewayContext

SINK: Final = "content_log"
WAITING_MAX: Final = 4096
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
CLOSE_S: Final = 10.0  # for what still waits to be written when the gateway stops

Waiting = tuple[Story, "GatewayContext"]


class ContentLog:
    """A `Sink` over rotated files."""

    def __init__(
        self, files: RotatedFiles, place: str, metrics: Metrics, waiting_bytes_max: int = WAITING_BYTES_MAX
    ) -> None:
        self._files = files
        self._place = place
        self._metrics = metrics
        self._waiting: queue.Queue[Waiting | None] = queue.Queue()
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting_bytes = 0
        self._count = threading.Lock()
        self._works = True
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="content-log", daemon=True)
        self._thread.start()

    def watched(
        self, backends: Mapping[str, Backend], trail: Trail, context: GatewayContext
    ) -> Mapping[str, Backend]:
        return backends

    def wants_answer(self, trail: Trail) -> bool:
        return trail.permitted is not None and trail.permitted.allows(Action.LOG, self._place)

    def ended(self, ending: Ending, trail: Trail, context: GatewayContext) -> None:
        story = story_of(ending, trail, context, content=True)
        if story is None or self._closed:
            return
        size = story.content_bytes
        with self._count:
            full = (
                self._waiting.qsize() >= WAITING_MAX or self._waiting_bytes + size > self._waiting_bytes_max
            )
            if not full:
                self._waiting_bytes += size
                self._waiting.put_nowait((story, context))
        if full:
            self._metrics.told(SINK, "dropped")

    async def aclose(self) -> None:
        """Writes what waits; what is not written after `CLOSE_S` is dropped and counted."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put_nowait(None)
        await asyncio.to_thread(self._thread.join, CLOSE_S)
        if self._thread.is_alive():
            self._metrics.told(SINK, "dropped", self._waiting.qsize())

    def _write_all(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            story, context = waiting
            self._metrics.told(SINK, self._write(story, context))
            with self._count:
                self._waiting_bytes -= story.content_bytes
        self._files.close()

    def _write(self, story: Story, context: GatewayContext) -> str:
        """Writes what is permitted now; says what became of it."""
        try:
            permitted = detail(self._place, story, context, story.at_worst)
            if permitted is Detail.NOTHING:
                return "withheld"
            self._files.write(line_of(story, permitted, context.tenant_keys))
        except TenantErased:
            return "withheld"
        except Exception:  # whatever it is must not end the thread, and with it the log
            if self._works:
                logs.event("content_log_unavailable", logging.ERROR, exc_info=True)
            self._works = False
            return "failed"
        if not self._works:
            logs.event("content_log_available")
        self._works = True
        return str(permitted)
