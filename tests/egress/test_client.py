"""The shared client with a guard, on a loop without one: names, literals, answers of DNS, redirects."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.backends.base import Misconfigured, Unreachable
from gateway.backends.http import open_http
from gateway.backends.openai import OpenAIBackend
from gateway.egress.destinations import Destinations
from gateway.egress.guard import Egress, EgressRefused
from tests.backends.support import attempt, chat, place
from tests.backends.upstream import Upstream, answering, completion, running

PLACE = place("openai", "house")


@pytest.fixture
def egress() -> Egress:
    return Egress()


@pytest.fixture
async def http(egress: Egress, system_tls: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    async with open_http(tls=system_tls, egress=egress) as session:
        yield session


@pytest.fixture(scope="module")
def system_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running(answering(200, completion({"content": "hi"}))) as one:
        yield one


def port_of(upstream: Upstream) -> int:
    return int(upstream.url.rpartition(":")[2])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """What DNS answers for any name, one list of addresses after the other."""
    given: list[list[str]] = []
    asked = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: Any, port: Any, **named: Any) -> Any:
        if host.endswith(".example"):
            addresses = given.pop(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]
        return await asked(loop, host, port, **named)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    yield given
    assert given == []


async def test_a_host_on_the_list_answers_and_its_neighbour_gets_no_connection(
    http: aiohttp.ClientSession, egress: Egress, upstream: Upstream
) -> None:
    backend = OpenAIBackend(PLACE, http, upstream.url, "secret")
    with pytest.raises(
        Unreachable, match=r"`house`: `127\.0\.0\.1:\d+` is not a destination of this gateway"
    ):
        await backend.complete(attempt(PLACE), chat("hi"), "r1")
    assert upstream.paths == []

    egress.put_in_force(Destinations.of(()).allow("127.0.0.1", port_of(upstream), "house", "house"))

    answer = await backend.complete(attempt(PLACE), chat("hi"), "r1")
    assert answer.body["choices"][0]["message"]["content"] == "hi"


async def test_a_name_that_dns_puts_inside_its_range_is_connected_to_at_that_very_address(
    http: aiohttp.ClientSession, egress: Egress, upstream: Upstream, answers: list[list[str]]
) -> None:
    answers.append(["127.0.0.1"])
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    egress.put_in_force(Destinations.of(()).allow("vllm.example", port_of(upstream), "h", "house", loopback))

    async with http.get(f"http://vllm.example:{port_of(upstream)}/v1/models") as response:
        assert response.status == 200


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["169.254.169.254"]])
async def test_a_name_that_dns_puts_outside_its_range_gets_no_connection(
    http: aiohttp.ClientSession,
    egress: Egress,
    upstream: Upstream,
    answers: list[list[str]],
    answer: list[str],
) -> None:
    answers.append(answer)
    private = (ipaddress.ip_network("10.0.0.0/8"),)
    egress.put_in_force(Destinations.of(()).allow("vllm.example", port_of(upstream), "h", "house", private))

    with pytest.raises(aiohttp.ClientConnectorError) as refused:
        await http.get(f"http://vllm.example:{port_of(upstream)}/v1/models")
    assert isinstance(refused.value.os_error, EgressRefused)
    assert egress.refused["answer"] == 1
    assert upstream.paths == []


async def test_a_redirect_is_refused_by_each_backend_of_the_shared_client(
    http: aiohttp.ClientSession, egress: Egress, upstream: Upstream
) -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"{upstream.url}/v1/chat/completions")

    async with running(away) as first:
        both = Destinations.of(()).allow("127.0.0.1", port_of(first), "house", "house")
        egress.put_in_force(both.allow("127.0.0.1", port_of(upstream), "another", "another"))
        backend = OpenAIBackend(PLACE, http, first.url, "secret")
        with pytest.raises(
            Misconfigured, match="`house` answered with redirect 307, which is never followed"
        ):
            await backend.complete(attempt(PLACE), chat("hi"), "r1")
        with pytest.raises(Misconfigured):
            await backend.stream(attempt(PLACE), chat("hi", stream=True), "r1")
    assert upstream.paths == []


async def test_a_connection_that_was_kept_is_held_against_the_list_in_force(
    http: aiohttp.ClientSession, egress: Egress, upstream: Upstream, answers: list[list[str]]
) -> None:
    port, name = port_of(upstream), "inference.example"
    url = f"http://{name}:{port}/v1/models"
    egress.put_in_force(Destinations.of(()).allow(name, port, "house", "house"))
    answers.append(["127.0.0.1"])
    for _ in range(2):
        async with http.get(url):
            pass
    assert len(upstream.paths) == 2

    private = (ipaddress.ip_network("10.0.0.0/8"),)
    for stricter in (
        Destinations.of(()).allow(name, port, "house", "house", private),
        Destinations.of(()),
    ):
        egress.put_in_force(stricter)
        with pytest.raises(aiohttp.ClientConnectorError) as raised:
            async with http.get(url):
                pass
        assert isinstance(raised.value.os_error, EgressRefused)
        egress.put_in_force(Destinations.of(()).allow(name, port, "house", "house"))
        async with http.get(url):
            pass
    assert len(upstream.paths) == 4
