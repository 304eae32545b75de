"""gpt-oss on Amazon Bedrock: Converse and ConverseStream of one region.

The region is the place's own; it is what the host is derived from and what the signature is scoped to. No
environment variable or profile can change either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

import aiohttp
import orjson
from yarl import URL

from gateway.backends import bedrock_errors, converse, converse_answer
from gateway.backends.base import (
    Answer,
    AnswerStream,
    BackendFault,
    Broken,
    Chunk,
    Misconfigured,
    TimedOut,
    Upstream,
)
from gateway.backends.endpoint import Endpoint, endpoint_of
from gateway.backends.eventstream import EventStreamDecoder, MalformedStream, StreamException
from gateway.backends.http import (
    IDLE_TIMEOUT_S,
    bounds_of,
    call_bounds,
    read_bounded,
    redirect_fault,
    transport_fault,
    upstream_request_id,
)
from gateway.backends.signing import Signer, utc_now
from gateway.backends.skew import Skew
from gateway.backends.streams import HttpStream
from gateway.openai import ChatRequest
from gateway.places import Place
from gateway.routing.attempt import Attempt

JSON: Final[Mapping[str, str]] = MappingProxyType(
    {"Content-Type": "application/json", "Accept": "application/json"}
)
EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {"Content-Type": "application/json", "Accept": "application/vnd.amazon.eventstream"}
)
EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
PROBE_TIMEOUT_S: Final = 10.0
SIGN_AGAIN_AFTER_S: Final = 1.0  # of the time that a call has left, at least so much


@dataclass(frozen=True, slots=True)
class Rejected:
    """An answer other than 200: its error's name, and its body."""

    status: int
    code: str
    text: bytes
    upstream: Upstream

    def fault(self, place_id: str) -> BackendFault:
        return bedrock_errors.http_fault(self.status, self.code, self.text, place_id, self.upstream)


class BedrockBackend:
    """A `Backend` over one region of Bedrock.

    `http` is the shared client, `signer` authorizes for the place's region, `endpoint` is the place's own
    unless the composition root passes the emulator's. `max_tokens_default` bounds answers for which the
    caller named no bound. `now_s` is the wall clock, for `created`; `now` is this machine's clock, against
    which `skew` (the signer's own) holds each answer's `Date`. `retried` hears of a call signed anew.
    """

    def __init__(
        self,
        place: Place,
        http: aiohttp.ClientSession,
        signer: Signer,
        *,
        endpoint: Endpoint | None = None,
        max_tokens_default: int = converse.MAX_TOKENS_DEFAULT,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        now_s: Callable[[], float] = time.time,
        skew: Skew | None = None,
        now: Callable[[], datetime] = utc_now,
        retried: Callable[[], None] = lambda: None,
    ) -> None:
        if place.region is None:
            raise ValueError(f"place `{place.id}` has no region; a bedrock place needs one")
        self._place = place
        self._http = http
        self._signer = signer
        self._endpoint = endpoint or endpoint_of(place)
        self._max_tokens_default = max_tokens_default
        self._idle_timeout_s = idle_timeout_s
        self._now_s = now_s
        self._skew = skew or Skew(place.region)
        self._now = now
        self._retried = retried

    @property
    def place(self) -> Place:
        return self._place

    @property
    def asked(self) -> Upstream:
        return self._upstream(None)

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        return converse.unsupported(chat)

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        response = await self._send(attempt, chat, "converse", JSON)
        upstream = self._upstream(response)
        async with response:
            body = await self._read(response, upstream)
        try:
            answer = orjson.loads(body)
            completion = converse_answer.completion(answer, request_id, attempt.model, int(self._now_s()))
            usage = converse_answer.usage_of(answer["usage"])
        except (orjson.JSONDecodeError, converse_answer.MalformedAnswer):
            raise Broken(f"`{self._place.id}` sent no Converse answer", upstream=upstream) from None
        return Answer(completion, usage, upstream)

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        first_s = attempt.first_byte_timeout_s
        try:
            async with asyncio.timeout(first_s):
                response = await self._send(attempt, chat, "converse-stream", EVENTS)
                upstream = self._upstream(response)
                if not response.content_type.startswith(EVENT_STREAM):
                    response.close()
                    raise Broken(f"`{self._place.id}` sent no event stream", upstream=upstream)
                created_s = int(self._now_s())
                translator = converse_answer.StreamTranslator(request_id, attempt.model, created_s)
                decoder = ConverseStreamDecoder(translator, self._place.id, upstream)
                stream = HttpStream(response, decoder, self._place.id, upstream, self._idle_timeout_s)
                await stream.wait_for_first()
                return stream
        except TimeoutError:
            raise TimedOut(
                f"`{self._place.id}` sent nothing for {first_s:g} s", upstream=self._upstream(None)
            ) from None

    async def probe(self) -> None:
        """Checks credentials and reachability by a signed call that is refused before any model runs."""
        model_id = next(iter(self._place.models.values()))
        body = b'{"messages":[]}'
        url = self._endpoint.operation(model_id, "converse")
        answer = await self._call(url, body, JSON, PROBE_TIMEOUT_S)
        if not isinstance(answer, Rejected):
            answer.close()
            return
        fault = answer.fault(self._place.id)
        if answer.code != "ValidationException" or isinstance(fault, Misconfigured):
            raise fault

    async def _send(
        self,
        attempt: Attempt,
        chat: ChatRequest,
        operation: str,
        headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        """The response of a call that was accepted; raises BackendFault for any other."""
        body = orjson.dumps(converse.converse_request(chat, self._max_tokens_default))
        url = self._endpoint.operation(attempt.upstream_model, operation)
        answer = await self._call(url, body, headers, attempt.total_timeout_s)
        if isinstance(answer, Rejected):
            raise answer.fault(self._place.id)
        return answer

    async def _call(
        self, url: str, body: bytes, headers: Mapping[str, str], total_s: float
    ) -> aiohttp.ClientResponse | Rejected:
        """One call. It is signed anew and sent once more, in what is left of `total_s`, when its signature
        was refused and the refusal told that it had the wrong time; no model has run then."""
        began_s = time.monotonic()
        corrected_by_s = self._skew.correction_s
        answer = await self._exchange(url, body, headers, call_bounds(total_s))
        if not isinstance(answer, Rejected) or answer.code not in bedrock_errors.OF_THE_CLOCK:
            return answer
        left_s = total_s - (time.monotonic() - began_s)
        if self._skew.correction_s == corrected_by_s or left_s < SIGN_AGAIN_AFTER_S:
            return answer
        self._retried()
        return await self._exchange(url, body, headers, bounds_of(left_s))

    async def _exchange(
        self, url: str, body: bytes, headers: Mapping[str, str], bounds: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse | Rejected:
        response = await self._post(url, body, await self._signer.headers(url, body, headers), bounds)
        if response.status == 200:
            return response
        upstream = self._upstream(response)
        async with response:
            if 300 <= response.status < 400:
                raise redirect_fault(response.status, self._place.id, upstream)
            text = await self._read(response, upstream)
        code = bedrock_errors.error_code(response.headers.get("x-amzn-errortype"), text)
        return Rejected(response.status, code, text, upstream)

    async def _post(
        self, url: str, body: bytes, headers: Mapping[str, str], bounds: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        sent_s = time.monotonic()
        try:
            response = await self._http.post(
                URL(url, encoded=True), data=body, headers=headers, timeout=bounds, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise transport_fault(error, self._place.id, self._upstream(None)) from None
        self._skew.observe(response.headers.get("Date"), self._now(), time.monotonic() - sent_s)
        return response

    async def _read(self, response: aiohttp.ClientResponse, upstream: Upstream) -> bytes:
        try:
            return await read_bounded(response, self._place.id, upstream)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise transport_fault(error, self._place.id, upstream) from None

    def _upstream(self, response: aiohttp.ClientResponse | None) -> Upstream:
        headers = response.headers if response is not None else {}
        return Upstream(
            host=self._endpoint.host,
            region=self._place.region,
            request_id=upstream_request_id(headers.get("x-amzn-requestid")),
            emulated=self._endpoint.emulated or headers.get("x-douane-emulated") == "1",
        )


class ConverseStreamDecoder:
    """Event-stream bytes of one ConverseStream to chunks; every way to break is a BackendFault."""

    def __init__(
        self, translator: converse_answer.StreamTranslator, place_id: str, upstream: Upstream
    ) -> None:
        self._events = EventStreamDecoder()
        self._translator = translator
        self._place_id = place_id
        self._upstream = upstream

    @property
    def complete(self) -> bool:
        return self._translator.complete and self._events.between_events

    def feed(self, data: bytes) -> tuple[Chunk, ...]:
        chunks: list[Chunk] = []
        try:
            for event_type, members in self._events.feed(data):
                chunks += self._translator.translate(event_type, members)
        except StreamException as error:
            raise bedrock_errors.stream_fault(error.code, self._place_id, self._upstream) from None
        except (MalformedStream, converse_answer.MalformedAnswer):
            raise Broken(f"the answer of `{self._place_id}` is corrupt", upstream=self._upstream) from None
        return tuple(chunks)
