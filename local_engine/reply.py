"""How both kinds of completion are answered: prepared off the event loop, queued, sent whole or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from local_engine.arrival import Hangup, gone, read_body
from local_engine.errors import Fault, RequestError
from local_engine.feed import Arrival, Feed
from local_engine.scheduler import Reason
from local_engine.service import Service
from local_engine.steps import Finished, Token

Job = TypeVar("Job")


Piece = TypeVar("Piece")
End = TypeVar("End", bound=str, covariant=True)


class ChoiceState(Protocol[Piece, End]):
    """What makes the tokens of one choice into pieces of an answer."""

    @property
    def done(self) -> bool:
        """True once nothing that the model could add would be shown."""

    def push(self, token: Token) -> list[Piece]:
        """Takes one sampled token; returns what it completes."""

    def finish(self, reason: Reason) -> tuple[list[Piece], End]:
        """The tokens have ended; returns the rest, and why in the API's words."""


def assembled(
    feed: Feed, choices: Sequence[ChoiceState[Piece, End]], batch: Sequence[Arrival]
) -> list[tuple[int, list[Piece], End | None]]:
    """What a batch adds to each choice it concerns, and why that ended if it did."""
    pieces: dict[int, list[Piece]] = {}
    ends: dict[int, End] = {}
    for number, step in batch:
        choice, own = choices[number], pieces.setdefault(number, [])
        if isinstance(step, Finished):
            cut_off = step.reason == "cancelled" and not choice.done
            rest, ends[number] = choice.finish(step.reason)
            own += rest
            feed.count_end("cancelled" if cut_off else ends[number])
        else:
            own += choice.push(step)
    for number in pieces.keys() - ends.keys():
        if choices[number].done:
            # The end is told once the engine has let go, so that it means a free engine.
            feed.cancel(number)
    return [(number, own, ends.get(number)) for number, own in pieces.items()]


class Reply(Protocol):
    """One request's answer, in one of two forms."""

    @property
    def streamed(self) -> bool:
        """Which form the client asked for."""

    async def whole(self) -> dict[str, Any]:
        """The complete answer."""

    def chunks(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The answer as stream chunks, each time all that there is to say."""


async def respond(
    request: Request,
    service: Service,
    prepare: Callable[[bytes], Job],
    open_reply: Callable[[Job, Feed], Reply],
) -> Response:
    """The life of a request. Raises `RequestError` for what fails before the first byte.

    `prepare` makes a body into a job. It runs on another thread, since rendering a long prompt or compiling a
    schema takes tens of milliseconds that other streams should not wait for. `open_reply` queues the job.
    """
    body = await read_body(request, service.max_body_bytes)
    arrived_s = service.clock()
    with ExitStack() as ends:
        hangup = Hangup(request.receive)
        ends.callback(hangup.stop)
        job = await asyncio.to_thread(prepare, body)
        if hangup.happened:
            raise gone()
        feed = Feed(service.metrics, arrived_s, service.clock)
        ends.callback(feed.close)
        reply = open_reply(job, feed)
        hangup.then(feed.cancel)
        await feed.first()
        if reply.streamed:
            return EventStream(reply, ends.pop_all())
        return JSONResponse(await reply.whole())


class EventStream(Response):
    """Server-sent events; an error after the first byte becomes an event, never a silent end.

    Events that are ready together leave in one write. `ends` is closed when the stream is over.
    """

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, ends: ExitStack) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._reply = reply
        self._ends = ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream. `receive` is read by whoever watches for the client's hanging up."""
        with self._ends:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            try:
                async for chunks in self._reply.chunks():
                    await _send(send, *map(orjson.dumps, chunks))
                await _send(send, b"[DONE]")
            except RequestError as error:
                await _send(send, orjson.dumps(error.body()))
            except Exception:
                await _send(send, orjson.dumps(Fault("the engine failed: the answer is incomplete").body()))
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, *events: bytes) -> None:
    body = b"".join([b"data: %b\n\n" % event for event in events])
    await send({"type": "http.response.body", "body": body, "more_body": True})
