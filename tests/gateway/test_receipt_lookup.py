"""`GET /v1/receipts/{id}`: for its own tenant, for as long as the setting says; nobody else learns of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from gateway.app import create_app
from gateway.context import GatewayContext
from tests.gateway.inprocess import chat, gateway, script
from tests.integration.bundle import DEMO, GLOBEX, HELPDESK, REPORTING, bundle_with_keys
from tests.redis_server import RedisServer

NOT_FOUND = {
    "message": "there is no such receipt for this API key; receipts are kept for a while only, save them "
    "from the header",
    "type": "invalid_request_error",
    "param": None,
    "code": "not_found",
}


async def made(context: GatewayContext, key: str = HELPDESK) -> tuple[str, str]:
    """A receipt's id, and the receipt."""
    script(context)
    client = chat("whose receipt", key=key)
    await client.ask(context)
    assert client.status == 200
    return f"rcpt_{str(client.header('x-request-id')).removeprefix('req_')}", str(
        client.header("x-douane-receipt")
    )


async def fetched(context: GatewayContext, receipt_id: str, key: str = HELPDESK) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(context.settings, context))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        headers = {"authorization": f"Bearer {key}"}
        return await http.get(f"/v1/receipts/{receipt_id}", headers=headers)


def said(response: httpx.Response) -> tuple[int, object, list[str]]:
    """All that a caller learns: status, body without the request's id, and the names of headers."""
    error = response.json()["error"]
    return response.status_code, {name: error[name] for name in NOT_FOUND}, sorted(response.headers)


async def test_each_key_of_the_tenant_reads_it_and_to_others_it_is_as_one_that_never_was(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path / "state", bundle_with_keys(tmp_path / "policies")) as context:
        receipt_id, jws = await made(context)

        for key in (HELPDESK, REPORTING):
            own = await fetched(context, receipt_id, key)
            assert (own.status_code, own.json()) == (
                200, {"id": receipt_id, "object": "receipt", "jws": jws},
            )  # fmt: skip
        never = said(await fetched(context, "rcpt_" + "0" * 32))
        assert never[:2] == (404, NOT_FOUND)
        for stranger in (DEMO, GLOBEX):
            assert said(await fetched(context, receipt_id, stranger)) == never
        assert (await fetched(context, receipt_id, "nobody")).status_code == 401


async def test_it_is_gone_after_its_time_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, receipt_ttl_s=60) as context:
        now_ms = 1_000_000_000
        monkeypatch.setattr(context.store, "_now_ms", lambda: now_ms)
        receipt_id, _ = await made(context)

        now_ms += 59_999
        assert (await fetched(context, receipt_id)).status_code == 200
        now_ms += 1
        expired = said(await fetched(context, receipt_id))
        assert expired == said(await fetched(context, "rcpt_" + "0" * 32))
        assert expired[:2] == (404, NOT_FOUND)


async def test_with_no_time_to_keep_it_it_is_not_kept(tmp_path: Path) -> None:
    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, receipt_ttl_s=0) as context:
        receipt_id, jws = await made(context)

        assert jws.count(".") == 2
        assert said(await fetched(context, receipt_id))[:2] == (404, NOT_FOUND)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.end()


@pytest.mark.needs("redis-server")
async def test_redis_keeps_it_sealed_and_for_as_long_as_the_setting_says(
    tmp_path: Path, server: RedisServer
) -> None:
    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(
        tmp_path / "state", policies, receipt_ttl_s=120, redis_url=server.url, redis_place="store-redis"
    ) as context:
        receipt_id, jws = await made(context)
        with redis.Redis(port=server.port) as client:
            (name,) = [one for one in client.scan_iter() if receipt_id.encode() in one]
            left_ms = client.pttl(name)
            value = client.get(name)
            assert 0 < left_ms <= 120_000
            assert isinstance(value, bytes)
            assert jws.encode() not in value
            assert (await fetched(context, receipt_id)).json()["jws"] == jws

            client.pexpire(name, 0)  # its time is over
            assert said(await fetched(context, receipt_id))[:2] == (404, NOT_FOUND)
