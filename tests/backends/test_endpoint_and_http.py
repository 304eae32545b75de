"""Addresses that are refused, and a client that takes nothing from the environment."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from gateway.backends.bedrock import BedrockBackend
from gateway.backends.endpoint import Endpoint, endpoint_of
from tests.backends.support import bedrock_place, emulator_signer


def test_the_endpoint_of_a_place_is_its_derived_host_over_https() -> None:
    endpoint = endpoint_of(bedrock_place("eu-central-1"))
    assert endpoint == Endpoint("https://bedrock-runtime.eu-central-1.amazonaws.com", emulated=False)
    assert endpoint.operation("openai.gpt-oss-20b-1:0", "converse") == (
        "https://bedrock-runtime.eu-central-1.amazonaws.com/model/openai.gpt-oss-20b-1%3A0/converse"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://bedrock-runtime.eu-central-1.amazonaws.com",
        "http://127.0.0.1.example.com",
        "ftp://127.0.0.1",
        "https://",
        "",
        "https://host/path",
        "https://host?query",
    ],
)
def test_an_endpoint_that_is_not_https_or_loopback_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="`endpoint url` must"):
        Endpoint(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"])
def test_plain_http_is_for_loopback(url: str) -> None:
    assert Endpoint(url).url == url


async def test_the_shared_client_ignores_the_environment_and_keeps_no_cookies(
    http: aiohttp.ClientSession,
) -> None:
    assert http.trust_env is False
    assert http.auto_decompress is False
    assert isinstance(http.cookie_jar, aiohttp.DummyCookieJar)
    assert http.headers["Accept-Encoding"] == "identity"


async def test_a_bedrock_place_needs_a_region_and_a_host(http: aiohttp.ClientSession) -> None:
    with pytest.raises(ValueError, match="has no region"):
        BedrockBackend(replace(bedrock_place(), region=None), http, emulator_signer())
    with pytest.raises(ValueError, match="has no host"):
        BedrockBackend(replace(bedrock_place(), host=None), http, emulator_signer())
