"""A request as it arrives: its body, and whether the client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import Receive

from local_engine.errors import Refused

BODY_TIMEOUT_S = 30.0


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body. Raises `Refused` when it is compressed, too large, too slow or cut off."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused("compressed bodies are not supported: send it plain", status=415)
    too_large = Refused(f"the body is above {max_bytes} bytes: shorten it", status=413, code="body_too_large")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise gone()
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(f"the body did not arrive within {BODY_TIMEOUT_S:g} s", status=408) from None


def gone() -> Refused:
    """What is said to a client that is not there any more."""
    return Refused("the client went away before it was answered")


class Hangup:
    """Notices that the client went away, from the end of its body on.

    The only reader of `receive` from then on. `stop` it when the answer is complete.
    """

    def __init__(self, receive: Receive) -> None:
        self.happened = False
        self._act: Callable[[], None] | None = None
        self._task = asyncio.create_task(self._watch(receive))

    def then(self, act: Callable[[], None]) -> None:
        """What to do when it happens; at once if it already has."""
        self._act = act
        if self.happened:
            act()

    def stop(self) -> None:
        """Watches no longer."""
        self._task.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.happened = True
        if self._act is not None:
            self._act()
