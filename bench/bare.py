"""The yardstick: a FastAPI route that forwards with aiohttp and does nothing else.

`python -m bench.bare PORT UPSTREAM_URL` runs under the gateway's own server configuration (one worker,
uvloop, httptools), so that what differs is what the gateway does with a request, and nothing below it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

JSON = {"content-type": "application/json"}


def create_forwarder(upstream_url: str) -> FastAPI:
    """Forwards `POST /v1/chat/completions` to `upstream_url`, plain or streamed."""
    target = f"{upstream_url}/v1/chat/completions"

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=1024)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as app.state.http:
            yield

    app = FastAPI(lifespan=opened, docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/chat/completions")
    async def forward(request: Request) -> Response:
        body = await request.body()
        http: aiohttp.ClientSession = request.app.state.http
        if b'"stream":true' in body:
            answer = await http.post(target, data=body, headers=JSON)
            return StreamingResponse(relay(answer), media_type="text/event-stream")
        async with http.post(target, data=body, headers=JSON) as answer:
            return Response(await answer.read(), answer.status, media_type="application/json")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def relay(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        async for piece in answer.content.iter_any():
            yield piece


if __name__ == "__main__":
    uvicorn.run(
        create_forwarder(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), http="httptools",
        loop="uvloop", lifespan="on", access_log=False, log_config=None, server_header=False,
        timeout_keep_alive=75,
    )  # fmt: skip
