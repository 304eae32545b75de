"""A `Backend` for any OpenAI-compatible server: vLLM, SGLang, another gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp
from yarl import URL

from gateway.backends import openai_wire
from gateway.backends.base import Answer, AnswerStream, Broken, Reported, Throttled, TimedOut, Upstream
from gateway.backends.http import (
    IDLE_TIMEOUT_S,
    call_bounds,
    read_bounded,
    redirect_fault,
    require_safe,
    transport_fault,
    upstream_request_id,
)
from gateway.backends.streams import HttpStream
from gateway.hidden import Hidden
from gateway.openai import ChatRequest
from gateway.places import Place
from gateway.routing.attempt import Attempt

EVENT_STREAM: Final = "text/event-stream"
PROBE_TIMEOUT_S: Final = 5.0


def nothing_unsupported(chat: ChatRequest) -> tuple[str, ...]:
    return ()


def nothing_reported(body: bytes) -> Reported | None:
    return None


class OpenAIBackend:
    """A server that speaks OpenAI's chat API under `base_url` (without `/v1`).

    `secret` is sent as a bearer token; None sends none. `full` is the fault that HTTP 429 means here.
    `refuses` names the parameters that this server cannot honour, `reports` reads its load from
    the answer to `probe_path`. `extra_headers` makes further headers of
    an attempt. Raises ValueError for plain http beyond loopback.
    """

    def __init__(
        self,
        place: Place,
        http: aiohttp.ClientSession,
        base_url: str,
        secret: str | None,
        *,
        full: openai_wire.Full = Throttled,
        refuses: Callable[[ChatRequest], tuple[str, ...]] = nothing_unsupported,
        extra_headers: Callable[[Attempt], Mapping[str, str]] | None = None,
        probe_path: str = "/v1/models",
        reports: Callable[[bytes], Reported | None] = nothing_reported,
        emulated: bool = False,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        require_safe(base_url, f"url of `{place.id}`")
        base = URL(base_url.rstrip("/"))
        self._place = place
        self._http = http
        self._chat_url = base / "v1/chat/completions"
        self._probe_url = base.with_path(base.path.rstrip("/") + probe_path)
        self._headers = {
            "Content-Type": "application/json",
            **({"Authorization": Hidden(f"Bearer {secret}")} if secret else {}),
        }
        self._full = full
        self._refuses = refuses
        self._reports = reports
        self._extra_headers = extra_headers
        self._emulated = emulated
        self._idle_timeout_s = idle_timeout_s
        self._nobody = Upstream(base.authority, place.region, None, emulated)

    @property
    def place(self) -> Place:
        return self._place

    @property
    def asked(self) -> Upstream:
        return self._nobody

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        return self._refuses(chat)

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        body = openai_wire.request_body(chat, attempt.upstream_model, stream=False)
        response = await self._send(attempt, body, request_id, call_bounds(attempt.total_timeout_s))
        upstream = self._upstream(response)
        async with response:
            text = await self._read(response, upstream)
        try:
            answer, usage = openai_wire.completion(text, request_id, attempt.model)
        except ValueError:
            raise Broken(f"`{self._place.id}` sent no chat completion", upstream=upstream) from None
        return Answer(answer, usage, upstream)

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        body = openai_wire.request_body(chat, attempt.upstream_model, stream=True)
        first_s = attempt.first_byte_timeout_s
        bounds = call_bounds(attempt.total_timeout_s)
        try:
            async with asyncio.timeout(first_s):
                response = await self._send(attempt, body, request_id, bounds)
                upstream = self._upstream(response)
                if response.content_type != EVENT_STREAM:
                    response.close()
                    raise Broken(f"`{self._place.id}` sent no event stream", upstream=upstream)
                decoder = openai_wire.SseDecoder(request_id, attempt.model, self._place.id, upstream)
                stream = HttpStream(response, decoder, self._place.id, upstream, self._idle_timeout_s)
                await stream.wait_for_first()
                return stream
        except TimeoutError:
            raise TimedOut(
                f"`{self._place.id}` sent nothing for {first_s:g} s", upstream=self._nobody
            ) from None

    async def probe(self) -> Reported | None:
        bounds = call_bounds(PROBE_TIMEOUT_S)
        try:
            response = await self._http.get(
                self._probe_url, headers=self._headers, timeout=bounds, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise transport_fault(error, self._place.id, self._nobody) from None
        async with response:
            upstream = self._upstream(response)
            await self._require_ok(response, upstream)
            return self._reports(await self._read(response, upstream))

    async def _send(
        self, attempt: Attempt, body: bytes, request_id: str, bounds: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """The response of a call that was accepted; raises BackendFault for any other."""
        headers = {**self._headers, "X-Request-Id": request_id}
        if self._extra_headers is not None:
            headers.update(self._extra_headers(attempt))
        try:
            response = await self._http.post(
                self._chat_url, data=body, headers=headers, timeout=bounds, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise transport_fault(error, self._place.id, self._nobody) from None
        if response.status != 200:
            async with response:
                await self._require_ok(response, self._upstream(response))
        return response

    async def _require_ok(self, response: aiohttp.ClientResponse, upstream: Upstream) -> None:
        if response.status == 200:
            return
        if 300 <= response.status < 400:
            raise redirect_fault(response.status, self._place.id, upstream)
        body = await self._read(response, upstream)
        raise openai_wire.http_fault(
            response.status,
            response.headers.get("Retry-After"),
            body,
            self._place.id,
            upstream,
            full=self._full,
        )

    async def _read(self, response: aiohttp.ClientResponse, upstream: Upstream) -> bytes:
        try:
            return await read_bounded(response, self._place.id, upstream)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise transport_fault(error, self._place.id, upstream) from None

    def _upstream(self, response: aiohttp.ClientResponse) -> Upstream:
        request_id = upstream_request_id(response.headers.get("X-Request-Id"))
        return Upstream(self._nobody.host, self._place.region, request_id, self._emulated)
