"""What a client does with its connection breaks none of its answers, and says no more than its heads do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.context import GatewayContext
from gateway.server import GatewayServer, server_config
from tests.gateway.inprocess import chat, end, gateway, records, script, word
from tests.integration.bundle import DEMO, bundle_with_keys

AUTHORIZATION = f"authorization: Bearer {DEMO}\r\n"


@asynccontextmanager
async def listening(context: GatewayContext) -> AsyncIterator[int]:
    """The gateway's own server on a free port."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = server_config(create_app(context.settings, context), context.settings)
    server = GatewayServer(config, context.readiness.stop, port.set_result)
    serving = asyncio.create_task(server.serve())
    try:
        yield await port
    finally:
        server.should_exit = server.force_exit = True
        await serving


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[GatewayContext]:
    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, port=0, header_timeout_s=0.3, grace_s=0) as opened:
        yield opened


def head(*lines: str) -> bytes:
    start = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    return (start + "".join(lines) + "\r\n").encode()


def request(body: bytes) -> bytes:
    return head(AUTHORIZATION, f"content-length: {len(body)}\r\n") + body


def chunked(body: bytes, trailers: str) -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers.encode())


async def test_a_trailer_is_no_header(context: GatewayContext) -> None:
    script(context)
    async with listening(context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("transfer-encoding: chunked\r\n") + chunked(chat().body, AUTHORIZATION))
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_a_second_head_that_drags_on_does_not_speak_into_the_first_answer(
    context: GatewayContext,
) -> None:
    async def pause() -> None:
        await asyncio.sleep(0.6)

    script(context, steps=((word("one "),), pause, (word("two", "stop"), end())))
    async with listening(context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(chat("hello", stream=True).body))
        await reader.readuntil(b"one ")
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-")
        rest = await asyncio.wait_for(reader.read(), 10)
        answer, _, after = rest.partition(b"data: [DONE]")
        assert b"HTTP/1.1" not in answer
        assert b'"two"' in answer
        assert b"HTTP/1.1 408 " in after
        writer.close()


@pytest.mark.parametrize("second", [b"no http at all\r\n\r\n", head("x-large: " + "x" * 40_000 + "\r\n")])
async def test_a_second_request_that_is_refused_does_not_speak_into_the_first_answer(
    context: GatewayContext, second: bytes
) -> None:
    more = asyncio.Event()

    async def pause() -> None:
        await more.wait()

    script(context, steps=((word("one "),), pause, (word("two", "stop"), end())))
    async with listening(context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(chat("hello", stream=True).body))
        await reader.readuntil(b"one ")
        writer.write(second)
        await asyncio.sleep(0.1)
        more.set()
        rest = await asyncio.wait_for(reader.read(), 10)
        assert b"HTTP/1.1" not in rest.partition(b"data: [DONE]")[0]
        writer.close()


async def test_a_body_whose_framing_breaks_is_refused_at_once(context: GatewayContext) -> None:
    async with listening(context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(AUTHORIZATION, "transfer-encoding: chunked\r\n") + b"no size\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_client_that_asks_twice_and_leaves_ends_both(context: GatewayContext) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    engine = script(context, steps=((word("one "),), forever))
    async with listening(context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = chat("hello", stream=True).body
        writer.write(request(body) + request(body))
        await reader.readuntil(b"one ")
        writer.transport.abort()
        for _ in range(500):
            if context.readiness.in_flight == 0:
                break
            await asyncio.sleep(0.01)
        assert context.readiness.in_flight == 0
        assert engine.streams[0].closed
        assert records(context)[1].fields["code"] == "client_gone"
