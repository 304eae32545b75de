"""The engine's HTTP face: three routes behind one secret."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_engine.chat import Service, chat_completion
from local_engine.errors import Fault, RequestError, SetupError

log = logging.getLogger("local_engine.server")


def create_app(service: Service, secret: str) -> FastAPI:
    """The application. Raises `SetupError` without a secret: whoever has none gets nothing."""
    if not secret.strip():
        raise SetupError(
            "no secret: set `DOUANE_ENGINE_SECRET` or `--secret-file`; callers send it as a bearer token"
        )

    async def chat(request: Request) -> Response:
        return await chat_completion(request, service)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name, service) for name in service.models]})

    async def health(_: Request) -> Response:
        load = service.engine.load()
        body = {
            "status": "stopping" if load.stopping else "ok",
            "running": load.running,
            "waiting": load.waiting,
            "max_waiting": load.max_waiting,
            "fingerprint": service.fingerprint,
        }
        return JSONResponse(body, status_code=503 if load.stopping else 200)

    return FastAPI(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, secret=secret)],
        exception_handlers={RequestError: _on_request_error, HTTPException: _on_http_error},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )


class Guard:
    """Outermost layer: the secret before anything else, and no failure that says what was in a request."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._digest = hashlib.sha256(secret.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what carries the secret; answers a bare 401 otherwise."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and self._admits(scope):
            await self._guarded(scope, receive, send)
        elif scope["type"] == "http":
            await Response(status_code=401)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

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
    what = "no such path" if error.status_code == 404 else "not possible here"
    body = {
        "error": {
            "message": f"{what}: use `POST /v1/chat/completions`, `GET /v1/models` or `GET /health`",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found" if error.status_code == 404 else "method_not_allowed",
        }
    }
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)
