"""The shared HTTP client, and the Bedrock backend in front of a fresh emulated region."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.backends.bedrock import BedrockBackend
from gateway.backends.endpoint import Endpoint
from gateway.backends.http import open_http
from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.server import Running, running_emulator
from tests.backends.support import SERVICE_MODEL, bedrock_place, emulator_signer


@pytest.fixture(scope="session")
def system_tls() -> ssl.SSLContext:
    """Reading the system's authorities takes longer than most tests here."""
    return ssl.create_default_context()


@pytest.fixture
async def http(system_tls: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    async with open_http(tls=system_tls) as session:
        yield session


@pytest.fixture
async def frankfurt() -> AsyncIterator[Running]:
    emulator = Emulator("eu-central-1", model=SERVICE_MODEL)
    async with running_emulator(emulator.region, emulator=emulator) as running:
        yield running


@pytest.fixture
def bedrock(http: aiohttp.ClientSession, frankfurt: Running) -> BedrockBackend:
    return BedrockBackend(
        bedrock_place(),
        http,
        emulator_signer(),
        endpoint=Endpoint(frankfurt.url, emulated=True),
        now_s=lambda: 1_700_000_000.0,
    )
