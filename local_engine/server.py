"""The engine's HTTP face: routes behind one secret, and a health check that says little without it."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_engine.chat import chat_completion
from local_engine.completions import text_completions
from local_engine.errors import Fault, Refused, RequestError, SetupError
from local_engine.load import Load
from local_engine.service import Service

log = logging.getLogger("local_engine.server")

PATHS = (
    "`POST /v1/chat/completions`, `POST /v1/completions`, `GET /v1/models`, `GET /health`, `GET /load` or "
    "`GET /metrics`"
)
TRUSTED = "local_engine.trusted"
"""Key of the ASGI scope: whether the caller showed the secret."""


def create_app(service: Service, secret: str) -> FastAPI:
    """The application. Raises `SetupError` without a secret: whoever has none gets nothing."""
    if not secret.strip():
        raise SetupError(
            "no secret: set `DOUANE_ENGINE_SECRET` or `--secret-file`; callers send it as a bearer token"
        )

    async def chat(request: Request) -> Response:
        return await chat_completion(request, service)

    async def completions(request: Request) -> Response:
        return await text_completions(request, service)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name, service) for name in service.models]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        service.check_model(name)
        return JSONResponse(_model(name, service))

    async def health(request: Request) -> Response:
        found = service.engine.load()
        status = status_of(found)
        body: dict[str, Any] = {"status": status}
        if request.scope[TRUSTED]:
            body |= {
                "running": found.running,
                "waiting": found.waiting,
                "max_waiting": found.max_waiting,
                "fingerprint": service.fingerprint,
            }
        return JSONResponse(body, status_code=200 if status == "ok" else 503)

    async def load(_: Request) -> Response:
        return JSONResponse(asdict(service.engine.load()))

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return FastAPI(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/models/{name:path}", model, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/load", load, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, secret=secret)],
        exception_handlers={RequestError: _on_request_error, HTTPException: _on_http_error},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )


def status_of(load: Load) -> str:
    """`ok`, `stopping` (drain: send nothing new) or `lost` (the device is gone, the process is ending)."""
    return "lost" if load.lost else "stopping" if load.stopping else "ok"


class Guard:
    """Outermost layer: the secret before anything else, and no failure that says what was in a request.

    The one route that is open without a secret is `GET /health`; a wrong secret is refused there too, so that
    a caller learns of it.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._digest = hashlib.sha256(secret.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what carries the secret; answers a bare 401 otherwise."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (trusted := self._admits(scope)) or _is_open(scope):
            await self._guarded({**scope, TRUSTED: trusted}, receive, send)
        else:
            await Response(status_code=401)(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = (sent[0] if len(sent) == 1 else b"").partition(b" ")
        # Digests have one length, so the comparison tells nothing about the secret's.
        same = hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self._digest)
        return kind.lower() == b"bearer" and same

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            # A traceback may quote the request, so only the kind of failure is logged.
            log.error("request failed: %s", type(error).__name__)
            if not started:
                fault = Fault("the engine failed on this request: see its log")
                await JSONResponse(fault.body(), status_code=fault.status)(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    """Whether this is a health check that shows no secret at all."""
    named = any(name == b"authorization" for name, _ in scope["headers"])
    return scope["path"] == "/health" and scope["method"] in ("GET", "HEAD") and not named


def _model(name: str, service: Service) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": service.fingerprint,
        "max_context_tokens": service.engine.max_context_tokens,
    }


async def _on_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    missing = error.status_code == 404
    refusal = Refused(
        f"{'no such path' if missing else 'not possible here'}: use {PATHS}",
        code="not_found" if missing else "method_not_allowed",
    )
    return JSONResponse(refusal.body(), status_code=error.status_code, headers=error.headers)
