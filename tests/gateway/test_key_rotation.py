"""A running gateway takes another signing key: no receipt is lost, and the audit says when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.audit.base import AuditSink
from gateway.audit.chain import unseal
from gateway.context import GatewayContext
from gateway.receipts.delivery import find_receipt
from gateway.receipts.jwk import PublicKey, from_base64url
from gateway.receipts.receipt import Receipt
from gateway.receipts.rotation import RECEIPT_KEY, RETIRED_KEYS, rotate_key
from gateway.receipts.verify import verify_receipt
from tests.gateway.inprocess import Client, chat, end, gateway, script, word
from tests.integration.bundle import bundle_with_keys


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[GatewayContext]:
    async with gateway(tmp_path / "state", bundle_with_keys(tmp_path / "policies")) as opened:
        yield opened


def changes(context: GatewayContext) -> list[dict[str, object]]:
    lines = context.audit.path.read_bytes().splitlines()  # type: ignore[attr-defined]
    links = [unseal(line) for line in lines]
    return [dict(link.fields) for link in links if link.kind == "signing_key_changed"]


async def published(context: GatewayContext) -> tuple[dict[str, PublicKey], str]:
    """What a stranger fetches, and for how long it may be kept."""
    transport = httpx.ASGITransport(create_app(context.settings, context))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        response = await http.get("/.well-known/jwks.json")
    keys = [PublicKey(from_base64url(key["x"]), demo=False) for key in response.json()["keys"]]
    return {key.thumbprint: key for key in keys}, response.headers["cache-control"]


def jws_of(client: Client) -> str:
    header = client.header("x-douane-receipt")
    return find_receipt(client.answer) if header is None else header


def receipt_of(client: Client, keys: dict[str, PublicKey]) -> tuple[str, Receipt]:
    opened = verify_receipt(jws_of(client), keys)
    return opened.kid, opened.receipt


async def test_requests_under_way_finish_and_all_receipts_verify_with_what_is_published(
    context: GatewayContext,
) -> None:
    underway, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        underway.set()
        await go_on.wait()

    script(context, steps=((word("one "),), wait, (word("two", "stop"), end())))
    first, across = chat("before the change"), chat("across the change", stream=True)
    await first.ask(context)
    asking = asyncio.create_task(across.ask(context))
    await underway.wait()
    before = context.signer.kid

    rotated = rotate_key(context.settings.state_dir)
    assert context.signer.kid == before, "nothing changes before it is told"
    assert await context.signer.reload(context.audit)
    go_on.set()
    await asking
    last = chat("after the change")
    await last.ask(context)

    keys, caching = await published(context)
    assert caching == "public, max-age=300"
    assert list(keys) == [rotated.after, rotated.before]
    assert [receipt_of(client, keys)[0] for client in (first, across, last)] == [
        rotated.before, rotated.after, rotated.after,
    ]  # fmt: skip
    assert changes(context) == [{"before": rotated.before, "after": rotated.after}]


async def test_the_change_is_on_record_before_the_first_receipt_of_the_new_key(
    context: GatewayContext,
) -> None:
    script(context)
    rotate_key(context.settings.state_dir)
    await context.signer.reload(context.audit)
    client = chat("hello")
    await client.ask(context)

    _, receipt = receipt_of(client, (await published(context))[0])
    lines = context.audit.path.read_bytes().splitlines()  # type: ignore[attr-defined]
    (changed,) = [link.sequence for link in map(unseal, lines) if link.kind == "signing_key_changed"]
    assert receipt.audit is not None
    assert changed < receipt.audit.sequence


async def test_the_poll_takes_a_new_key_once(
    context: GatewayContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, looked = context.signer.kid, asyncio.Event()
    reload = context.signer.reload
    reloads = []

    async def counted(audit: AuditSink) -> bool:
        reloads.append(await reload(audit))
        looked.set()
        return reloads[-1]

    monkeypatch.setattr(context.signer, "reload", counted)
    watching = asyncio.create_task(context.signer.watch(0.01, context.audit))
    rotated = await asyncio.to_thread(rotate_key, context.settings.state_dir)
    while context.signer.kid == before:  # it may have looked in the middle of the change
        await looked.wait()
        looked.clear()
    watching.cancel()
    assert reloads[-1]

    assert context.signer.kid == rotated.after
    assert changes(context) == [{"before": before, "after": rotated.after}]


async def test_a_key_that_cannot_be_used_changes_nothing_and_is_told(
    context: GatewayContext, caplog: pytest.LogCaptureFixture
) -> None:
    before = context.signer.kid
    key = context.settings.state_dir / RECEIPT_KEY
    key.chmod(0o644)

    assert not await context.signer.reload(context.audit)

    assert context.signer.kid == before
    (told,) = [one for one in caplog.records if one.msg == "signing_key_refused"]
    assert told.levelno == logging.ERROR
    assert told.fields["kept"] == before  # type: ignore[attr-defined]
    assert "has mode 0644" in told.fields["problems"]  # type: ignore[attr-defined]
    assert changes(context) == []


async def test_a_stolen_key_that_is_taken_out_is_published_no_longer(
    context: GatewayContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "douane")
    rotated = rotate_key(context.settings.state_dir)
    await context.signer.reload(context.audit)
    rotated.retired.unlink()

    assert not await context.signer.reload(context.audit)
    assert not await context.signer.reload(context.audit)

    assert list((await published(context))[0]) == [rotated.after]
    assert [one.msg for one in caplog.records if one.name == "douane"] == [
        "signing_key_changed", "retired_keys_changed",
    ]  # fmt: skip
    assert list((context.settings.state_dir / RETIRED_KEYS).iterdir()) == []


async def test_where_the_change_cannot_be_recorded_the_new_key_signs_all_the_same(
    context: GatewayContext, caplog: pytest.LogCaptureFixture
) -> None:
    """To go on with a key that the operator took away would be worse; requests fail by their own records."""
    rotated = rotate_key(context.settings.state_dir)
    context.audit._closed = True  # type: ignore[attr-defined]

    assert await context.signer.reload(context.audit)

    assert context.signer.kid == rotated.after
    (told,) = [one for one in caplog.records if one.msg == "audit_unavailable"]
    assert told.fields == {"record": "signing_key_changed"}  # type: ignore[attr-defined]
    context.audit._closed = False  # type: ignore[attr-defined]
