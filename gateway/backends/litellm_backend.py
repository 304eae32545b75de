"""Every other provider through litellm, behind the same residency rules as any place.

litellm is imported when a backend is built and never before: it is large, and a gateway without such a
place never loads it. Its router, caches, callbacks, retries and telemetry are not used.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from gateway.backends import openai_wire
from gateway.backends.base import (
    Answer,
    AnswerStream,
    BackendFault,
    Broken,
    Chunk,
    Misconfigured,
    Refused,
    ServerFault,
    Throttled,
    TimedOut,
    Unreachable,
    Upstream,
)
from gateway.backends.http import require_safe
from gateway.egress.guard import EgressRefused
from gateway.openai import ChatRequest
from gateway.places import Place
from gateway.routing.attempt import Attempt

# By litellm's own class names: its classes cannot be imported here without importing litellm.
FAULTS: Final[Mapping[str, tuple[type[BackendFault], str]]] = {
    "AuthenticationError": (Misconfigured, "refused the gateway's own key; check it"),
    "PermissionDeniedError": (Misconfigured, "denied access to the gateway's own key"),
    "NotFoundError": (Misconfigured, "does not know the model; check `places.yaml`"),
    "RateLimitError": (Throttled, "throttles this account"),
    "Timeout": (TimedOut, "did not answer in time"),
    "APIConnectionError": (Unreachable, "cannot be reached"),
    "BudgetExceededError": (Misconfigured, "is stopped by a budget that was set inside litellm"),
}
NOT_A_PARAMETER: Final = frozenset({"messages"})
CAUSES_MAX: Final = 20
# What litellm otherwise fetches: prices when it is imported, headers of one provider, presets, tokenizers.
LOCAL_COPIES: Final = (
    "LITELLM_LOCAL_MODEL_COST_MAP",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS",
    "HF_HUB_OFFLINE",
)
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


# The hosts of the place that a call is made for; what litellm starts in the course of a call inherits it.
HOSTS_OF_CALL: Final[ContextVar[frozenset[str] | None]] = ContextVar("hosts_of_call", default=None)


class NotThere(OSError):
    """A request that would go, or was sent on, to another host than those of its place."""


def load_litellm() -> Any:
    """litellm, told to keep to itself: no download at import, no telemetry, no callbacks, nothing dropped."""
    os.environ.update(dict.fromkeys(LOCAL_COPIES, "True"))
    litellm: Any = importlib.import_module("litellm")
    keep_to_the_place(litellm)
    litellm.telemetry = False
    litellm.disable_aiohttp_trust_env = True
    litellm.drop_params = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.cache = None
    for name in (
        "callbacks",
        "input_callback",
        "success_callback",
        "failure_callback",
        "_async_success_callback",
    ):
        setattr(litellm, name, [])
    return litellm


def keep_to_the_place(litellm: Any) -> None:
    """Has every HTTP client that litellm makes refuse other hosts than the place's, and redirects.

    litellm's clients follow redirects, with the prompt, and no setting of it turns that off; the transport
    below them is the one point that all share.
    """
    handler = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    kind = handler.AsyncHTTPHandler
    if getattr(kind.create_async_transport, "keeps_to_the_place", False):
        return
    make = kind.create_async_transport

    def create_async_transport(*given: Any, **named: Any) -> Any:
        made = make(*given, **named)
        if made is None:  # httpx would make its own, after us
            made = handler.AsyncHTTPTransport(verify=named.get("ssl_context") or True)
        send = made.handle_async_request

        async def handle_async_request(request: Any) -> Any:
            require_the_place(request.url)
            response = await send(request)
            if response.status_code in REDIRECTS:
                await response.aclose()
                raise NotThere(f"a redirect {response.status_code} is never followed")
            return response

        made.handle_async_request = handle_async_request
        return made

    create_async_transport.keeps_to_the_place = True  # type: ignore[attr-defined]
    kind.create_async_transport = staticmethod(create_async_transport)
    litellm.sync_transport = synchronous(handler)


def synchronous(handler: Any) -> Any:
    """The same for clients that litellm runs in a thread."""
    transport = handler.HTTPTransport(verify=handler.get_ssl_configuration())
    send = transport.handle_request

    def handle_request(request: Any) -> Any:
        require_the_place(request.url)
        response = send(request)
        if response.status_code in REDIRECTS:
            response.close()
            raise NotThere(f"a redirect {response.status_code} is never followed")
        return response

    transport.handle_request = handle_request
    return transport


def require_the_place(url: Any) -> None:
    hosts = HOSTS_OF_CALL.get()
    if hosts is not None and url.host not in hosts:
        raise NotThere(f"`{url.host}` is no host of this place")


class LiteLLMBackend:
    """A `Backend` over `litellm.acompletion`; the place's model ids are litellm's (`provider/model`).

    Where such a place is was declared by the operator and cannot be derived. `api_base` and `api_key` are
    passed explicitly; a call reaches the host of `api_base` and `hosts`, no other. Raises ValueError for a
    model whose provider litellm does not know, and for plain http beyond loopback.
    """

    def __init__(
        self,
        place: Place,
        *,
        api_key: str | None = None,
        api_base: str | None = None,
        hosts: Iterable[str] = (),
        emulated: bool = False,
    ) -> None:
        if api_base is not None:
            require_safe(api_base, f"url of `{place.id}`")
        self._place = place
        self._litellm = load_litellm()
        self._credentials = {
            key: value for key, value in (("api_key", api_key), ("api_base", api_base)) if value is not None
        }
        self._supported = frozenset.intersection(*(self._parameters_of(m) for m in place.models.values()))
        self._upstream = Upstream(place.host or "declared", place.region, None, emulated)
        own = urlsplit(api_base).hostname if api_base is not None else None
        self._hosts = frozenset({own, *hosts}) if own else None

    @property
    def place(self) -> Place:
        return self._place

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        return tuple(sorted(chat.forwarded().keys() - self._supported - NOT_A_PARAMETER))

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        answer = await self._call(attempt, chat, stream=False)
        body = orjson.dumps(answer.model_dump(exclude_none=True), default=str)
        try:
            completion, usage = openai_wire.completion(body, request_id, attempt.model)
        except ValueError:
            raise Broken(f"`{self._place.id}` sent no chat completion", upstream=self._upstream) from None
        return Answer(completion, usage, self._upstream)

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        first_s = attempt.first_byte_timeout_s
        try:
            async with asyncio.timeout(first_s):
                source = await self._call(attempt, chat, stream=True)
                decoder = openai_wire.SseDecoder(request_id, attempt.model, self._place.id, self._upstream)
                stream = LiteLLMStream(source, decoder, self._place.id, self._upstream)
                await stream.wait_for_first()
                return stream
        except TimeoutError:
            raise TimedOut(
                f"`{self._place.id}` sent nothing for {first_s:g} s", upstream=self._upstream
            ) from None

    async def probe(self) -> None:
        """Says nothing: litellm has no call that costs no tokens, so the first request finds out."""

    async def _call(self, attempt: Attempt, chat: ChatRequest, *, stream: bool) -> Any:
        body = orjson.loads(openai_wire.request_body(chat, attempt.upstream_model, stream=stream))
        HOSTS_OF_CALL.set(self._hosts)  # in the context of this request, which no other call shares
        try:
            return await self._litellm.acompletion(
                **body,
                **self._credentials,
                timeout=attempt.total_timeout_s,
                num_retries=0,
                max_retries=0,
                drop_params=False,
                **{"no-log": True},
            )
        except Exception as error:
            raise litellm_fault(error, self._place.id, self._upstream) from None

    def _parameters_of(self, model: str) -> frozenset[str]:
        try:
            known = self._litellm.get_supported_openai_params(model=model)
        except Exception as error:
            known, reason = None, type(error).__name__
        else:
            reason = "no provider"
        if known is None:
            raise ValueError(
                f"litellm does not know model `{model}` of place `{self._place.id}` ({reason}); "
                "write `provider/model`"
            )
        return frozenset(known)


class LiteLLMStream:
    """An `AnswerStream` over litellm's stream wrapper."""

    def __init__(
        self, source: Any, decoder: openai_wire.SseDecoder, place_id: str, upstream: Upstream
    ) -> None:
        self._source = source
        self._decoder = decoder
        self._place_id = place_id
        self._upstream = upstream
        self._first: tuple[Chunk, ...] = ()
        self._ended = False

    @property
    def upstream(self) -> Upstream:
        return self._upstream

    async def wait_for_first(self) -> None:
        try:
            self._first = await self._read()
        except (BackendFault, asyncio.CancelledError, StopAsyncIteration):
            await self.aclose()
            raise

    def __aiter__(self) -> AsyncIterator[tuple[Chunk, ...]]:
        return self

    async def __anext__(self) -> tuple[Chunk, ...]:
        if self._first:
            batch, self._first = self._first, ()
            return batch
        if self._ended:
            raise StopAsyncIteration
        try:
            return await self._read()
        except (BackendFault, asyncio.CancelledError):
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Closes litellm's stream, and with it the connection, once."""
        if not self._ended:
            self._ended = True
            await self._source.aclose()

    async def _read(self) -> tuple[Chunk, ...]:
        while True:
            try:
                part = await self._source.__anext__()
            except StopAsyncIteration:
                rest = self._decoder.feed(b"data: [DONE]\n\n")
                if not self._decoder.complete:
                    text = f"the answer of `{self._place_id}` ended before it was complete"
                    raise Broken(text, upstream=self._upstream) from None
                self._ended = True
                if rest:
                    return rest
                raise
            except Exception as error:
                raise litellm_fault(error, self._place_id, self._upstream) from None
            data = orjson.dumps(part.model_dump(exclude_none=True), default=str)
            if batch := self._decoder.feed(b"data: %b\n\n" % data):
                return batch


def litellm_fault(error: Exception, place_id: str, upstream: Upstream) -> BackendFault:
    """The fault of what litellm raised, by class and status; its text may hold content and is dropped."""
    if (refused := refused_within(error)) is not None:
        ours_to_mend = isinstance(refused, NotThere)  # else DNS or a list that may change
        return (Misconfigured if ours_to_mend else Unreachable)(f"`{place_id}`: {refused}", upstream=upstream)
    names = [kind.__name__ for kind in type(error).__mro__]
    status = getattr(error, "status_code", None)
    if "ContextWindowExceededError" in names:
        text = f"`{place_id}`: {openai_wire.CONTEXT_FAULT}"
        return Refused(text, code="context_length_exceeded", upstream=upstream)
    if "ContentPolicyViolationError" in names:
        return Refused(f"`{place_id}` filtered the request", code="content_filter", upstream=upstream)
    for name in names:
        if name in FAULTS:
            kind, text = FAULTS[name]
            return kind(f"`{place_id}` {text}", upstream=upstream)
    # litellm reports a server's 424 in the middle of a stream as a BadRequestError: the status tells.
    ours = "BadRequestError" in names or "UnprocessableEntityError" in names
    if ours and status in (None, 400, 413, 422):
        return Refused(f"`{place_id}` refused the request as invalid", upstream=upstream)
    return ServerFault(f"`{place_id}` failed", upstream=upstream)


def refused_within(error: BaseException | None) -> NotThere | EgressRefused | None:
    """What of ours an error came from: litellm and the clients below it wrap what they meet."""
    for _ in range(CAUSES_MAX):
        if error is None or isinstance(error, NotThere | EgressRefused):
            return error
        error = error.__cause__ or error.__context__
    return None
