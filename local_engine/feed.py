"""From the engine's thread to the event loop: the steps of one HTTP request, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from local_engine.engine import Engine
from local_engine.generation import Generation
from local_engine.metrics import Metrics
from local_engine.sampling import SamplingParams
from local_engine.steps import Failed, Finished, Grammar, Step, Token

HIGH_WATER_STEPS = 256
"""From this many steps on that the client has not taken, nothing more is computed for it. The low-water mark
is an empty buffer, because the writer takes all there is at once. A few steps more may arrive meanwhile."""

Arrival = tuple[int, Token | Finished]
"""A choice of the request, and what came for it."""


class Feed:
    """All generations of one request, and what they have computed and the client has not taken yet.

    Choices are numbered over all generations, in the order in which those were opened. `since` is when the
    request arrived, on `clock`. To be made and used on the event loop; the engine delivers from its thread.
    """

    def __init__(self, metrics: Metrics, since: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._since = since
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._arrived: list[tuple[int, Step]] = []
        self._last_s: dict[int, float] = {}
        self._ready = asyncio.Event()
        self._woken = False
        self._hold_due = False
        self._held = False
        self._closed = False
        self._generations: list[tuple[int, int, Generation]] = []
        self._unfinished: set[int] = set()
        self._cached = 0

    def open(
        self,
        engine: Engine,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        n: int,
        cache_salt: str | None,
        grammar: Callable[[], Grammar] | None = None,
    ) -> None:
        """Queues one more generation of `n` choices. Raises what `Engine.submit` raises."""
        first = sum(count for _, count, _ in self._generations)
        deliver = partial(self._deliver, first)
        generation = engine.submit(prompt, params, deliver, n=n, cache_salt=cache_salt, grammar=grammar)
        self._generations.append((first, n, generation))
        self._unfinished |= set(range(first, first + n))

    async def first(self) -> None:
        """Waits until something has come. Raises the `RequestError` of a request that fails before that."""
        await self._ready.wait()
        with self._lock:
            step = self._arrived[0][1]
        if isinstance(step, Failed):
            self._count_failed()
            raise step.error

    async def batches(self) -> AsyncIterator[list[Arrival]]:
        """Whatever has come since the last time, until every choice is finished.

        Raises the `RequestError` that the request breaks off with, after what came before it.
        """
        while self._unfinished:
            batch: list[Arrival] = []
            failed: Failed | None = None
            for first, step in await self._take():
                if isinstance(step, Failed):
                    failed = step
                    break
                batch.append((first + step.choice, step))
                if isinstance(step, Finished):
                    self._unfinished.discard(first + step.choice)
                    if step.choice == 0:
                        # The other choices share the prompt that the first one computed.
                        self._cached += step.cached_tokens
            if batch:
                yield batch
            if failed is not None:
                self._count_failed()
                raise failed.error

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were not computed anew; known once every choice is finished."""
        return self._cached

    def count_end(self, reason: str) -> None:
        """Takes note of why a choice ended."""
        self._metrics.finished.labels(reason).inc()

    def cancel(self, choice: int | None = None) -> None:
        """Ends a choice, or all of them. Each `Finished` still comes."""
        for first, n, generation in self._generations:
            if choice is None:
                generation.cancel()
            elif first <= choice < first + n:
                generation.cancel(choice - first)

    def close(self) -> None:
        """Nobody reads any more: cancels what is left and forgets it. Harmless at the end of an answer."""
        with self._lock:
            self._closed = True
            self._arrived = []
        self.cancel()
        self._metrics.finished.labels("cancelled").inc(len(self._unfinished))
        self._unfinished.clear()

    async def _take(self) -> list[tuple[int, Step]]:
        await self._ready.wait()
        with self._lock:
            taken, self._arrived = self._arrived, []
            self._woken = self._hold_due = False
            held, self._held = self._held, False
        self._ready.clear()
        if held:
            for _, _, generation in self._generations:
                generation.release()
        return taken

    def _deliver(self, first: int, step: Step) -> None:
        # Called on the engine's thread.
        if isinstance(step, Token):
            self._observe(first + step.choice)
        with self._lock:
            if self._closed:
                return
            self._arrived.append((first, step))
            full = len(self._arrived) >= HIGH_WATER_STEPS and not self._hold_due
            wake = full or not self._woken
            self._woken, self._hold_due = True, self._hold_due or full
        if wake:
            # Without a loop the process is ending, and nobody listens any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            waiting = len(self._arrived)
            hold = waiting >= HIGH_WATER_STEPS and not self._held
            self._held = self._held or hold
        if waiting:
            self._ready.set()
        if hold:
            for _, _, generation in self._generations:
                generation.hold()

    def _observe(self, choice: int) -> None:
        now = self._clock()
        last = self._last_s.get(choice)
        self._last_s[choice] = now
        if last is None:
            self._metrics.first_token_s.observe(now - self._since)
        else:
            self._metrics.inter_token_s.observe(now - last)

    def _count_failed(self) -> None:
        self._metrics.finished.labels("failed").inc(len(self._unfinished))
        self._unfinished.clear()
