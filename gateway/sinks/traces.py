"""Traces: one span a request and one a step of it, sent as OTLP over HTTP to `trace_url` and nowhere else.

A request leaves its story in a bounded queue and goes on. A task takes what has come together, asks the
bundles, makes spans of what may be told, and sends them with the gateway's own client: the same certificate
checks, no redirect, no proxy, nothing from the environment, which OpenTelemetry's own exporter would read.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import aiohttp
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from gateway import logs
from gateway.backends.base import Backend
from gateway.hidden import Hidden
from gateway.metrics import Metrics
from gateway.places import Action
from gateway.receipts.assemble import Ending
from gateway.sinks.calls import TimedBackends
from gateway.sinks.detail import Detail, detail
from gateway.sinks.spans import spans_of
from gateway.sinks.story import Story, story_of
from gateway.trail import Trail

if TYPE_CHECKING:
    from gateway.context import GatewayContext

SINK: Final = "traces"
WAITING_MAX: Final = 4096
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
BATCH: Final = 64  # requests in one message
GATHER_S: Final = 1.0  # how long a request may wait for others to be sent with
TRIES: Final = 3
RETRY_S: Final = 1.0
SEND: Final = aiohttp.ClientTimeout(total=10, sock_connect=5)
TRY_AGAIN: Final = frozenset({429, 502, 503, 504})  # as OTLP says
CLOSE_S: Final = 5.0

Waiting = tuple[Story, "GatewayContext"]


class Traces:
    """A `Sink` that sends spans. Belongs to one event loop."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        place: str,
        secret: str | None,
        content: bool,
        metrics: Metrics,
        gather_s: float = GATHER_S,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._http = http
        self._url = url
        self._place = place
        self._headers = {"content-type": "application/x-protobuf"}
        if secret is not None:
            self._headers["authorization"] = Hidden(f"Bearer {secret}")
        self._content = content
        self._metrics = metrics
        self._gather_s = gather_s
        self._waiting_max = waiting_max
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._waiting_bytes = 0
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._closing = False
        self._works = True
        self._task = asyncio.create_task(self._send_all())

    def watched(
        self, backends: Mapping[str, Backend], trail: Trail, context: GatewayContext
    ) -> Mapping[str, Backend]:
        return TimedBackends(backends, trail.timings, context.clock)

    def wants_answer(self, trail: Trail) -> bool:
        return (
            self._content and trail.permitted is not None and trail.permitted.allows(Action.LOG, self._place)
        )

    def ended(self, ending: Ending, trail: Trail, context: GatewayContext) -> None:
        story = story_of(ending, trail, context, content=self._content)
        if story is None or self._closing:
            return
        if (
            len(self._waiting) >= self._waiting_max
            or self._waiting_bytes + story.content_bytes > WAITING_BYTES_MAX
        ):
            self._metrics.told(SINK, "dropped")
            return
        self._waiting.append((story, context))
        self._waiting_bytes += story.content_bytes
        self._some.set()
        if len(self._waiting) >= BATCH:
            self._enough.set()

    async def aclose(self) -> None:
        """Sends what waits; what is not sent after `CLOSE_S` is dropped and counted."""
        if self._closing:
            return
        self._closing = True
        self._some.set()
        self._enough.set()
        _, unfinished = await asyncio.wait([self._task], timeout=CLOSE_S)
        if unfinished:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._metrics.told(SINK, "dropped", len(self._waiting))

    async def _send_all(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._some.clear()
                await self._some.wait()
                continue
            if len(self._waiting) < BATCH and not self._closing:
                self._enough.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), self._gather_s)
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._waiting_bytes -= sum(story.content_bytes for story, _ in batch)
            try:
                await self._send(batch)
            except asyncio.CancelledError:  # the time to close is over
                self._metrics.told(SINK, "dropped", len(batch))
                raise
            except Exception:  # whatever it is must not end the task, and with it the traces
                self._failed(len(batch), exc_info=True)

    async def _send(self, batch: Sequence[Waiting]) -> None:
        for number in range(TRIES):
            # Asked anew before each try: a bundle that came into force meanwhile may permit less.
            details = [detail(self._place, story, context, story.at_worst) for story, context in batch]
            told = [
                (story, context, self._content and permitted is Detail.CONTENT)
                for (story, context), permitted in zip(batch, details, strict=True)
                if permitted is not Detail.NOTHING
            ]
            if not told or await self._post(await asyncio.to_thread(message_of, told)):
                break
            if number < TRIES - 1:
                await asyncio.sleep(RETRY_S * 2**number)
        else:
            self._failed(len(told))
            told = []
        for _, _, content in told:
            self._metrics.told(SINK, "content" if content else "metadata")
        if withheld := details.count(Detail.NOTHING):
            self._metrics.told(SINK, "withheld", withheld)
        if told and not self._works:
            logs.event("traces_available")
            self._works = True

    async def _post(self, message: bytes) -> bool:
        """Whether the collector took it. Raises `CollectorRefused` for an answer that no repetition
        would change."""
        try:
            async with self._http.post(
                self._url, data=message, headers=self._headers, timeout=SEND, allow_redirects=False
            ) as response:
                if response.status == 200:
                    return True
                if response.status in TRY_AGAIN:
                    return False
        except (aiohttp.ClientError, TimeoutError):
            return False
        raise CollectorRefused(response.status)

    def _failed(self, count: int, *, exc_info: bool = False) -> None:
        self._metrics.told(SINK, "failed", count)
        if self._works:
            logs.event("traces_unavailable", logging.ERROR, exc_info=exc_info)
        self._works = False


class CollectorRefused(Exception):
    """The collector does not take what it was sent, and would not take it again: a redirect, a 4xx, a 500."""


def message_of(told: Sequence[tuple[Story, GatewayContext, bool]]) -> bytes:
    """An `ExportTraceServiceRequest` with the spans of these requests, with content where it may be told."""
    spans: list[ReadableSpan] = []
    for story, context, content in told:
        spans += spans_of(story, context.settings.gateway_place, content=content)
    return bytes(encode_spans(spans).SerializeToString())
