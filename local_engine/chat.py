"""The life of one chat completion in the engine, from body to last byte."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from local_engine.answer import Assembler, Piece
from local_engine.completion import (
    Envelope,
    Usage,
    closing_chunk,
    completion,
    opening_chunk,
    piece_chunk,
    usage_chunk,
)
from local_engine.engine import Engine, Failed, Finished, Generation, Step, Token
from local_engine.errors import Fault, Refused, RequestError
from local_engine.harmony.render import render_prompt
from local_engine.prompt import conversation_of, offered_tools
from local_engine.sampling import SamplingParams
from local_engine.vocabulary import Vocabulary
from local_engine.wire import ChatRequest, parse_chat_request

CACHE_SALT_HEADER = "x-douane-cache-salt"
MAX_CACHE_SALT_CHARS = 256
BODY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """Everything a request needs, made once at start-up.

    `models` are the served names, `fingerprint` says which weights answer. `today`, `now_s` and `new_id` are
    the outside world, for tests to hold still.
    """

    engine: Engine
    vocabulary: Vocabulary
    models: tuple[str, ...]
    fingerprint: str
    max_body_bytes: int = 8 << 20
    today: Callable[[], date] = date.today
    now_s: Callable[[], float] = time.time
    new_id: Callable[[], str] = lambda: secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class Job:
    """A request made ready: the prompt's tokens, how to sample, and what the answer repeats."""

    request: ChatRequest
    prompt: list[int]
    params: SamplingParams
    envelope: Envelope
    cache_salt: str | None


async def chat_completion(request: Request, service: Service) -> Response:
    """`POST /v1/chat/completions`. Raises `RequestError` for what fails before the first byte."""
    body = await read_body(request, service.max_body_bytes)
    # Encoding a long prompt takes tens of milliseconds that other streams should not wait for.
    job = await asyncio.to_thread(prepare, body, request.headers.get(CACHE_SALT_HEADER), service)
    answer = Answer(job, service)
    watcher = asyncio.create_task(_cancel_on_disconnect(request.receive, answer.generation))
    try:
        await answer.begin()
        if not job.request.stream:
            return JSONResponse(await answer.whole())
    except BaseException:
        watcher.cancel()
        answer.generation.cancel()
        raise
    finally:
        if not job.request.stream:
            watcher.cancel()
    return EventStream(answer, watcher)


def prepare(body: bytes, cache_salt: str | None, service: Service) -> Job:
    """Parses, checks and renders a request; pure but for the clock. Raises `Refused`."""
    request = parse_chat_request(body)
    if request.model not in service.models:
        raise Refused(
            f"this engine serves {', '.join(f'`{name}`' for name in service.models)} only: set `model` to it",
            param="model",
            code="model_not_found",
            status=404,
        )
    if cache_salt is not None and len(cache_salt) > MAX_CACHE_SALT_CHARS:
        raise Refused(f"`{CACHE_SALT_HEADER}` takes at most {MAX_CACHE_SALT_CHARS} characters")
    prompt = render_prompt(conversation_of(request, service.today()), service.vocabulary)
    envelope = Envelope(
        id=f"chatcmpl-{service.new_id()}",
        created=int(service.now_s()),
        model=request.model,
        fingerprint=service.fingerprint,
        logprobs=bool(request.logprobs),
    )
    return Job(request, prompt, sampling_of(request, len(prompt), service.engine), envelope, cache_salt)


def sampling_of(request: ChatRequest, prompt_tokens: int, engine: Engine) -> SamplingParams:
    """The request's sampling; without a limit the answer may fill the context."""
    asked = request.max_completion_tokens or request.max_tokens
    max_tokens = asked or max(1, engine.max_context_tokens - prompt_tokens)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


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
                    raise Refused("the client went away before its request was complete", status=400)
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(f"the body did not arrive within {BODY_TIMEOUT_S:g} s", status=408) from None


async def _cancel_on_disconnect(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


class Answer:
    """One generation on its way to the client."""

    def __init__(self, job: Job, service: Service) -> None:
        self.job = job
        self._steps: asyncio.Queue[Step] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._assembler = Assembler(
            service.vocabulary,
            job.request.stop_strings,
            bool(offered_tools(job.request)),
            lambda: f"call_{service.new_id()}",
        )
        self._first: Step | None = None
        self.generation = service.engine.submit(
            job.prompt, job.params, self._deliver, cache_salt=job.cache_salt
        )

    def _deliver(self, step: Step) -> None:
        # Called on the worker thread.
        try:
            self._loop.call_soon_threadsafe(self._steps.put_nowait, step)
        except RuntimeError:
            # The loop has ended: the process is shutting down, and nobody listens any more.
            self.generation.cancel()

    async def begin(self) -> None:
        """Waits for the first step, so that a failure before it still has a status of its own.

        Raises the `RequestError` of a generation that fails at once.
        """
        self._first = await self._steps.get()
        if isinstance(self._first, Failed):
            raise self._first.error

    async def pieces(self) -> AsyncIterator[Piece | Finished]:
        """The answer's pieces as they come, then `Finished`. Raises the `RequestError` it breaks off with."""
        step = self._first or await self._steps.get()
        while isinstance(step, Token):
            for piece in self._assembler.push(step):
                yield piece
            if self._assembler.done:
                self.generation.cancel()
                yield await self._end(step)
                return
            step = await self._steps.get()
        if isinstance(step, Failed):
            raise step.error
        yield step

    async def _end(self, last: Token) -> Finished:
        """Waits until the engine let go, so that the answer's end means a free engine."""
        step: Step = last
        while isinstance(step, Token):
            step = await self._steps.get()
        return Finished("stop")

    def finish(self, end: Finished) -> tuple[list[Piece], Any]:
        """The last pieces and the finish reason."""
        return self._assembler.finish(end.reason)

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        return Usage(
            len(self.job.prompt), self._assembler.completion_tokens, self._assembler.reasoning_tokens
        )

    async def whole(self) -> dict[str, Any]:
        """The complete answer as one object."""
        pieces: list[Piece] = []
        reason: Any = None
        async for piece in self.pieces():
            if isinstance(piece, Finished):
                last, reason = self.finish(piece)
                pieces += last
            else:
                pieces.append(piece)
        return completion(self.job.envelope, pieces, reason, self.usage)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The answer as stream chunks."""
        envelope = self.job.envelope
        yield opening_chunk(envelope)
        async for piece in self.pieces():
            if not isinstance(piece, Finished):
                yield piece_chunk(envelope, piece)
                continue
            last, reason = self.finish(piece)
            for rest in last:
                yield piece_chunk(envelope, rest)
            yield closing_chunk(envelope, reason)
        options = self.job.request.stream_options
        if options is not None and options.include_usage:
            yield usage_chunk(envelope, self.usage)


class EventStream(Response):
    """Server-sent events; an error after the first byte becomes an event, never a silent end."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, watcher: asyncio.Task[None]) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._answer = answer
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream. The watcher is the one who reads `receive`."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self._answer.chunks():
                await self._event(send, json.dumps(chunk, ensure_ascii=False, separators=(",", ":")))
            await self._event(send, "[DONE]")
        except RequestError as error:
            await self._event(send, json.dumps(error.body(), separators=(",", ":")))
        except Exception:
            await self._event(send, json.dumps(Fault("the engine failed: the answer is incomplete").body()))
            raise
        finally:
            self._watcher.cancel()
            self._answer.generation.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _event(self, send: Send, data: str) -> None:
        body = f"data: {data}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
