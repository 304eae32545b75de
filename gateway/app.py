"""The application is a value: `create_app(settings, context)` lists every route; nothing else adds one."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__, errors, logs
from gateway.arrival import EXTENSION
from gateway.chat import chat_completion
from gateway.context import GatewayContext
from gateway.hangup import Hangup
from gateway.hidden import Hidden
from gateway.ingress import (
    ClientGone,
    Receive,
    Reply,
    Scope,
    Send,
    error_reply,
    hide_key,
    json_reply,
    new_request_id,
    read_request,
    write_reply,
)
from gateway.models import list_models
from gateway.openai import ChatRequest
from gateway.receipts.lookup import fetch_receipt
from gateway.settings import Settings

CHAT_PATH = "/v1/chat/completions"
# Whoever meets a `kid` that is not in the copy asks again; a key that was taken out is gone within minutes.
JWKS_CACHING = "public, max-age=300"


class Gateway(FastAPI):
    """A FastAPI application whose chat requests go straight to their endpoint.

    The endpoint reads, bounds and answers on ASGI itself, errors included, and has no use for the layers of
    middleware and routing in front of it; they cost more than any step of a request.
    """

    def __init__(self, chat: ChatEndpoint, **given: Any) -> None:
        super().__init__(routes=[Route(CHAT_PATH, chat, methods=["POST"])], **given)
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == CHAT_PATH and scope["method"] == "POST":
            await self._chat(scope, receive, send)
        else:
            if scope["type"] == "http":
                hide_key(scope)
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, context: GatewayContext) -> FastAPI:
    """The gateway over opened seams; it opens and closes nothing itself."""
    app = Gateway(
        ChatEndpoint(settings, context),
        title="Douane",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a redirect would name whatever host the caller wrote
        exception_handlers={
            errors.DouaneError: answer_error,
            HTTPException: answer_http_error,
            Exception: answer_bug,
        },
    )

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The models that this caller may use, with the places that may answer."""
        return as_response(list_models(sent_key(request), context))

    @app.get("/v1/receipts/{receipt_id}")
    async def receipt(request: Request, receipt_id: str) -> Response:
        """A receipt of the caller's own tenant."""
        return as_response(await fetch_receipt(sent_key(request), receipt_id, context))

    @app.get("/.well-known/jwks.json")
    async def jwks(response: Response) -> dict[str, Any]:
        """The public keys that receipts verify with, retired ones included."""
        response.headers["cache-control"] = JWKS_CACHING
        return context.signer.jwks()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Whether new requests are welcome: off while stopping. `clock_skew_s` names regions whose clock is
        not ours."""
        ready = context.readiness.ready
        detail: dict[str, Any] = {"status": "ready" if ready else "stopping"}
        if skews := context.backends.skews.corrections_s():
            detail["clock_skew_s"] = skews
        return as_response(json_reply(200 if ready else 503, detail))

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        context.metrics.store_up.set(await context.store.healthy())
        context.metrics.in_flight.set(context.readiness.in_flight)
        return Response(context.metrics.exposition(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", include_in_schema=False)
    async def schema() -> dict[str, Any]:
        return describe_api(app)

    return app


class ChatEndpoint:
    """`POST /v1/chat/completions` as an ASGI application: reads, answers, and watches for a hang-up."""

    def __init__(self, settings: Settings, context: GatewayContext) -> None:
        self._settings = settings
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        hide_key(scope)
        context, settings = self._context, self._settings
        context.readiness.in_flight += 1
        try:
            arrival = scope.get("extensions", {}).get(EXTENSION)
            with Hangup(receive, arrival) as hangup:
                try:
                    if not context.readiness.ready:
                        raise errors.ShuttingDown(
                            "this gateway is stopping; send the request again", retry_after_s=1
                        )
                    incoming = await read_request(
                        scope, receive, request_id, settings.body_limit_bytes, settings.header_limit_bytes,
                        settings.body_timeout_s,
                    )  # fmt: skip
                    hangup.watch()
                    reply = await chat_completion(incoming, hangup, context)
                except errors.DouaneError as error:
                    context.metrics.requests.labels("refused", str(error.status)).inc()
                    reply = error_reply(error, request_id)
                await write_reply(reply, send, lambda: hangup.happened)
        except ClientGone:
            context.metrics.requests.labels("client_gone", "499").inc()
        finally:
            context.readiness.in_flight -= 1


def sent_key(request: Request) -> Hidden | None:
    sent = request.headers.get("authorization")
    return Hidden(sent) if sent is not None else None


def as_response(reply: Reply) -> Response:
    assert isinstance(reply.body, bytes)
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, media_type="application/json")


async def answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.DouaneError)
    return as_response(error_reply(error, new_request_id()))


async def answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("allow", "another method")
        known: errors.DouaneError = errors.MethodNotAllowed(
            f"this path does not take this method; use {allowed}"
        )
    else:
        known = errors.NotFound(
            "this path does not exist here; the API's base is `/v1`, for example `POST /v1/chat/completions`"
        )
    return as_response(error_reply(known, new_request_id()))


async def answer_bug(request: Request, error: Exception) -> Response:
    request_id = new_request_id()
    # Not under the request's id: of a request without labels nothing may be recorded.
    logs.event("bug", logging.ERROR, exc_info=error)
    return as_response(error_reply(errors.bug(request_id), request_id))


def describe_api(app: FastAPI) -> dict[str, Any]:
    """OpenAPI of this gateway; the chat route is described from the wire type that validates it."""
    schema = dict(app.openapi())
    chat = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    components.update(chat.pop("$defs", {}))
    components["ChatRequest"] = chat
    schema["paths"][CHAT_PATH] = {
        "post": {
            "summary": "Chat completion, plain or as server-sent events",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
            },
            "responses": {"200": {"description": "An OpenAI `chat.completion`, or its chunks"}},
        }
    }
    return schema
