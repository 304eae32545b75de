"""The emulator behind TLS under a test authority: bearer tokens, wrong names, the gateway's own client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import boto3
import pytest
import trustme
from botocore.config import Config
from botocore.exceptions import ClientError

from gateway.backends.base import Unreachable
from gateway.backends.bedrock import BedrockBackend
from gateway.backends.endpoint import Endpoint
from gateway.backends.http import open_http
from gateway.backends.signing import BearerSigner
from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.model import ServiceModel
from gateway.testing.bedrock.server import running_emulator
from gateway.testing.bedrock.signature import Keys
from tests.backends.support import attempt, bedrock_place, chat, emulator_signer

MODEL_ID = "openai.gpt-oss-20b-1:0"
TOKEN = "bedrock-api-key-1"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certificate(authority: trustme.CA, name: str, folder: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert(name)
    chain, key = folder / "chain.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(chain)
    issued.private_key_pem.write_to_path(key)
    return chain, key


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_a_bedrock_api_key_works_as_boto3s_bearer_token(
    authority: trustme.CA, service_model: ServiceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(roots)
    chain, key = certificate(authority, "127.0.0.1", tmp_path)
    emulator = Emulator("eu-central-1", keys=Keys(bearer=TOKEN), model=service_model)

    def converse(url: str, token: str) -> str:
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", token)
        bedrock = boto3.session.Session().client(
            "bedrock-runtime",
            region_name="eu-central-1",
            endpoint_url=url,
            verify=str(roots),
            config=Config(retries={"total_max_attempts": 1}),
        )
        with contextlib.closing(bedrock):
            messages = [{"role": "user", "content": [{"text": "hi"}]}]
            return str(bedrock.converse(modelId=MODEL_ID, messages=messages)["stopReason"])

    async with running_emulator("eu-central-1", emulator=emulator, certificate=chain, key=key) as running:
        assert await asyncio.to_thread(converse, running.url, TOKEN) == "end_turn"
        with pytest.raises(ClientError, match="AccessDeniedException"):
            await asyncio.to_thread(converse, running.url, "another")


async def test_the_gateway_reaches_a_region_over_tls_with_signatures_or_an_api_key(
    authority: trustme.CA, service_model: ServiceModel, tmp_path: Path
) -> None:
    chain, key = certificate(authority, "127.0.0.1", tmp_path)
    emulator = Emulator("eu-central-1", keys=Keys(bearer=TOKEN), model=service_model)
    async with (
        running_emulator("eu-central-1", emulator=emulator, certificate=chain, key=key) as running,
        open_http(tls=trusting(authority)) as http,
    ):
        for signer in (emulator_signer(), BearerSigner(TOKEN)):
            backend = BedrockBackend(bedrock_place(), http, signer, endpoint=Endpoint(running.url))
            answer = await backend.complete(attempt(backend.place), chat("hi"), "r1")
            assert answer.body["choices"][0]["message"]["content"].endswith("You said: hi")
        assert TOKEN not in repr(signer)
    assert [one.status for one in emulator.ledger.requests] == [200, 200]


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_for_another_name_or_of_a_stranger_gets_no_request(
    authority: trustme.CA, service_model: ServiceModel, tmp_path: Path, trusted: bool
) -> None:
    name = "bedrock-runtime.us-east-1.amazonaws.com" if trusted else "127.0.0.1"
    chain, key = certificate(authority, name, tmp_path)
    emulator = Emulator("eu-central-1", model=service_model)
    tls = trusting(authority) if trusted else ssl.create_default_context()
    async with (
        running_emulator("eu-central-1", emulator=emulator, certificate=chain, key=key) as running,
        open_http(tls=tls) as http,
    ):
        backend = BedrockBackend(bedrock_place(), http, emulator_signer(), endpoint=Endpoint(running.url))
        with pytest.raises(Unreachable, match="shows a certificate that is not valid for"):
            await backend.complete(attempt(backend.place), chat("hi"), "r1")
        with pytest.raises(Unreachable):
            await backend.stream(attempt(backend.place), chat("hi"), "r1")
        with pytest.raises(Unreachable):
            await backend.probe()
    assert emulator.ledger.requests == ()


async def test_a_client_that_would_not_verify_is_refused_at_construction() -> None:
    careless = ssl.create_default_context()
    careless.check_hostname = False
    with pytest.raises(ValueError, match="must verify certificates and host names"):
        async with open_http(tls=careless):
            pass
