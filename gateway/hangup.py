"""Noticing that the client hung up while its answer is being made, so that the work is cancelled at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Any

from gateway.arrival import Arrival
from gateway.ingress import ClientGone, Receive


class Hangup:
    """Cancels the request's task when the client disconnects, between `watch` and `disarm`.

    After `disarm` nothing is cancelled any more: what is left is to settle, record and sign. On leaving the
    context, the cancellation it caused becomes `ClientGone`; any other passes through.
    """

    def __init__(self, receive: Receive, arrival: Arrival | None = None) -> None:
        self._receive = receive
        self._arrival = arrival  # where the server tells of hang-ups itself; else `receive` is waited for
        self._watcher: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._left = False
        self.happened = False

    def watch(self) -> None:
        """Starts watching; the request's body must have been read whole."""
        self._task = asyncio.current_task()
        if self._arrival is not None:
            self._arrival.when_gone(self._cancel)
        else:
            self._watcher = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel()

    def _cancel(self) -> None:
        self._left = True
        if self._task is not None:
            self.happened = True
            self._task.cancel()

    async def after(self, step: Awaitable[None]) -> None:
        """Runs a step that a hang-up must not cut in half, and acts on the hang-up after it."""
        task, self._task = self._task, None
        try:
            await step
        finally:
            self._task = task
        if self._left and task is not None:
            self.happened = True
            raise asyncio.CancelledError

    def disarm(self) -> None:
        """From here on the answer is finished whether or not anybody listens."""
        self._task = None

    def __enter__(self) -> Hangup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._arrival is not None:
            self._arrival.when_gone(None)
        if self._watcher is not None:
            self._watcher.cancel()
        if isinstance(error, asyncio.CancelledError) and self.happened:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            raise ClientGone from None
