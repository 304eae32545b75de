"""Whose `X-Forwarded-*` headers are believed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.ingress import Receive, Scope, Send
from gateway.server import server_config
from gateway.settings import read_settings


async def seen_client(trusted: str, peer: str, headers: list[tuple[bytes, bytes]]) -> tuple[str, str]:
    """The caller's address and scheme that the application sees."""
    seen: dict[str, Any] = {}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)

    config = server_config(application, read_settings({"DOUANE_TRUSTED_PROXIES": trusted} if trusted else {}))
    config.load()

    async def nothing(*_: object) -> Any:
        raise AssertionError("nothing is read or sent")

    scope = {
        "type": "http",
        "client": (peer, 1234),
        "scheme": "http",
        "headers": headers,
        "server": ("127.0.0.1", 80),
    }
    await config.loaded_app(scope, nothing, nothing)
    return seen["client"][0], seen["scheme"]


FORWARDED = [(b"x-forwarded-for", b"203.0.113.7"), (b"x-forwarded-proto", b"https")]


@pytest.mark.parametrize(
    ("trusted", "peer", "client", "scheme"),
    [
        ("", "127.0.0.1", "127.0.0.1", "http"),
        ("10.0.0.0/8", "127.0.0.1", "127.0.0.1", "http"),
        ("10.0.0.0/8", "11.0.0.1", "11.0.0.1", "http"),
        ("10.0.0.0/8", "10.2.3.4", "203.0.113.7", "https"),
        ("10.0.0.0/8,192.0.2.1", "192.0.2.1", "203.0.113.7", "https"),
    ],
)
async def test_only_configured_proxies_are_believed(
    trusted: str, peer: str, client: str, scheme: str
) -> None:
    assert await seen_client(trusted, peer, FORWARDED) == (client, scheme)


async def test_a_caller_cannot_put_an_address_before_the_proxys() -> None:
    """The last address that no trusted proxy has is the caller's, whatever stands before it."""
    headers = [(b"x-forwarded-for", b"198.51.100.1, 203.0.113.7, 10.9.9.9")]

    assert await seen_client("10.0.0.0/8", "10.2.3.4", headers) == ("203.0.113.7", "http")


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")

    assert await seen_client("", "127.0.0.1", FORWARDED) == ("127.0.0.1", "http")
