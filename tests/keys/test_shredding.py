"""Erasure: after it nothing that was ever kept of the tenant opens or matches, whatever was copied before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from gateway.audit.verify import verify_files
from gateway.cache import open_entry
from gateway.cli.tenant import tenant
from gateway.context import GatewayContext
from gateway.errors import TenantErased
from gateway.keys.keyring import TenantKeys, Unsealable
from gateway.keys.opening import open_keys
from gateway.keys.shelf import name_of
from gateway.keys.wrapping import KeyFileInvalid
from gateway.opening import open_context
from gateway.receipts.delivery import find_receipt
from gateway.receipts.lookup import fetch_receipt, storage_key
from gateway.settings import Settings
from gateway.sinks.entry import EntryInvalid, open_line
from tests.gateway.inprocess import WHOLE, Client, chat, make_keys, script
from tests.integration.bundle import DEMO, DEMO_KEYS, GLOBEX
from tests.redis_server import RedisServer
from tests.sinks.bundle import CONTENT_LOG, bundle_with_sinks

ERASED, OTHER = "demo", "globex-us"
KEY_OF = {ERASED: DEMO, OTHER: GLOBEX}
PROMPT = "a prompt that somebody knows"


def douane(settings: Settings, *arguments: str) -> Result:
    given = [*arguments, "--state-dir", str(settings.state_dir)]
    return CliRunner().invoke(tenant, given, catch_exceptions=False)


@dataclass
class Site:
    """Two workers over one state directory and one Redis, and what both tenants have left there."""

    settings: Settings
    workers: list[GatewayContext]
    redis: redis.Redis
    requests: dict[str, Client] = field(default_factory=dict)

    async def ask(self, worker: int, name: str, text: str = PROMPT, **fields: Any) -> Client:
        client = chat(text, key=KEY_OF[name], **fields)
        await client.ask(self.workers[worker])
        return client

    async def look(self) -> None:
        """What every worker does every few seconds."""
        for worker in self.workers:
            await worker.shredding.look()

    def stored(self) -> dict[bytes, bytes]:
        """Every string in Redis."""
        keys = [key for key in self.redis.scan_iter() if self.redis.type(key) == b"string"]
        return {key: self.redis.get(key) for key in keys}  # type: ignore[misc]

    def logged(self) -> list[bytes]:
        assert self.settings.content_log is not None
        files = sorted(self.settings.content_log.glob("*.jsonl"))
        return [line for file in files for line in file.read_bytes().splitlines()]

    def records(self) -> list[dict[str, Any]]:
        files = sorted((self.settings.state_dir / "audit").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]

    def master_copy(self) -> TenantKeys:
        """A keyring as an attacker builds it who has the state directory, master key and all."""
        return open_keys(self.settings).ring


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.end()


@pytest.fixture
async def site(tmp_path: Path, server: RedisServer) -> AsyncIterator[Site]:
    client = redis.Redis(port=server.port)
    client.flushall()
    make_keys(tmp_path / "state")
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path / "state",
            "policies": bundle_with_sinks(tmp_path / "policies"),
            "policy_poll_s": 3600,
            "content_log": tmp_path / "log",
            "content_log_place": CONTENT_LOG,
            "redis_url": server.url,
        }
    )
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(open_context(settings, DEMO_KEYS)) for _ in range(2)]
        for worker in workers:
            script(worker)
        yield Site(settings, workers, client)
    client.close()


async def settle(site: Site, lines: int) -> None:
    """Until the content logs' threads have written."""
    for _ in range(500):
        if len(site.logged()) >= lines:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(site.logged())} lines in the content log, not {lines}")


async def test_nothing_that_was_kept_of_an_erased_tenant_opens_or_matches_with_every_copy_and_the_master_key(
    site: Site,
) -> None:
    answers = {name: await site.ask(number, name) for number, name in enumerate((ERASED, OTHER))}
    for name, client in answers.items():
        assert client.status == 200, name
    await settle(site, 2)
    # Somebody copies everything that a disk and a Redis hold, and has the master key; not the keys folder.
    stored, logged, records = site.stored(), site.logged(), site.records()
    keys = site.master_copy()
    before = {name: (keys.commit(name, answers[name].body), keys.salt(name)) for name in (ERASED, OTHER)}
    begun = {one["tenant"]: one["request_hmac"] for one in records if one["kind"] == "begin"}
    assert begun == {name: commitment for name, (commitment, _) in before.items()}

    assert douane(site.settings, "shred", ERASED, "--yes").exit_code == 0
    await site.look()

    keys = site.master_copy()
    opened: dict[str, int] = {ERASED: 0, OTHER: 0}
    for name in opened:
        for key, value in stored.items():
            prefix = f"douane:{{{name}}}:".encode()
            if not key.startswith(prefix):
                continue
            kind, _, entry_key = key.removeprefix(prefix).decode().partition(":")
            if kind == "v":
                opened[name] += opens(keys, name, entry_key, value)
            elif kind == "a":
                try:
                    opened[name] += open_entry(value[16:], entry_key, name, keys) is not None
                except TenantErased:
                    continue
        for line in logged:
            if json.loads(line)["tenant"] == name:
                opened[name] += readable(line, keys)
    assert opened == {ERASED: 0, OTHER: 3}  # the answer, its receipt, and the line of the content log
    with pytest.raises(TenantErased):
        keys.commit(ERASED, answers[ERASED].body)
    assert keys.commit(OTHER, answers[OTHER].body) == begun[OTHER]
    # Nor after the tenant has begun anew: what is committed to then cannot be laid beside it.
    assert douane(site.settings, "renew", ERASED).exit_code == 0
    anew = site.master_copy()
    assert anew.commit(ERASED, answers[ERASED].body) != begun[ERASED]
    assert anew.salt(ERASED) != before[ERASED][1]
    assert sum(readable(line, anew) for line in logged) == 1


def opens(keys: TenantKeys, name: str, key: str, value: bytes) -> bool:
    try:
        return bool(keys.open_(name, key.encode(), value))
    except (TenantErased, Unsealable):
        return False


def readable(line: bytes, keys: TenantKeys) -> bool:
    try:
        return open_line(line, keys).content is not None
    except EntryInvalid:
        return False


async def test_every_worker_drops_the_key_and_refuses_and_all_of_it_is_on_the_record(site: Site) -> None:
    for worker in range(2):
        assert (await site.ask(worker, ERASED)).status == 200
    key_id = site.workers[0].tenant_keys.held()[ERASED]
    douane(site.settings, "shred", ERASED, "--yes")
    await site.look()

    for worker in range(2):
        client = await site.ask(worker, ERASED)
        assert client.status == 403
        assert json.loads(client.answer)["error"]["code"] == "tenant_erased"
        assert find_receipt((client.header("x-douane-receipt") or "").encode())
        assert site.workers[worker].tenant_keys.held() == {}
        assert (await site.ask(worker, OTHER)).status == 200
    records = site.records()
    (shredded,) = [one for one in records if one["kind"] == "tenant_shredded"]
    dropped = [one for one in records if one["kind"] == "tenant_key_dropped"]
    refused = [one for one in records if one["kind"] == "refused"]
    assert (shredded["tenant"], shredded["key_id"]) == (ERASED, key_id)
    assert [(one["tenant"], one["key_id"]) for one in dropped] == [(ERASED, key_id)] * 2
    assert {one["replica"] for one in dropped} == {worker.audit.replica for worker in site.workers}
    assert [(one["code"], one["request_hmac"]) for one in refused] == [("tenant_erased", None)] * 2
    assert all(report.intact for report in verify_files([site.settings.state_dir / "audit"]))


async def test_a_key_whose_file_was_damaged_is_dropped_and_hides_no_other_erasure(site: Site) -> None:
    """As a crash in the midst of a shredding leaves it: written over, and no mark in its place yet."""
    for name in (ERASED, OTHER):
        await site.ask(0, name)
    (site.settings.state_dir / "keys" / name_of(ERASED)).write_bytes(b"\x8f" * 300)
    douane(site.settings, "shred", OTHER, "--yes")
    await site.look()

    assert site.workers[0].tenant_keys.held() == {}
    erased, other = await site.ask(0, ERASED), await site.ask(0, OTHER)
    assert (erased.status, other.status) == (503, 403)
    assert douane(site.settings, "shred", ERASED, "--yes").exit_code == 0
    await site.look()
    assert (await site.ask(0, ERASED)).status == 403


async def test_a_worker_that_sleeps_through_shredding_and_renewal_takes_the_new_key_all_the_same(
    site: Site,
) -> None:
    await site.ask(0, ERASED)
    old = site.workers[0].tenant_keys.held()[ERASED]
    douane(site.settings, "shred", ERASED, "--yes")
    douane(site.settings, "renew", ERASED)
    assert (await site.ask(1, ERASED)).status == 200  # it makes the new key
    await site.look()

    assert site.workers[0].tenant_keys.held() == {}
    assert (await site.ask(0, ERASED)).status == 200
    new = site.workers[0].tenant_keys.held()[ERASED]
    assert new == site.workers[1].tenant_keys.held()[ERASED] != old


async def test_a_request_under_way_ends_and_leaves_nothing_that_opens(site: Site) -> None:
    worker = site.workers[0]

    async def erase() -> None:
        douane(site.settings, "shred", ERASED, "--yes")
        await site.look()

    script(worker, before=erase)
    client = await site.ask(0, ERASED)

    assert client.status in (200, 403)
    ends = [one for one in site.records() if one["kind"] == "end"]
    assert [one["answer_hmac"] for one in ends] == [None]
    assert site.stored().keys() <= {b"douane:keys"}


async def test_a_stream_under_way_ends_with_its_receipt(site: Site) -> None:
    worker = site.workers[0]

    async def erase() -> None:
        douane(site.settings, "shred", ERASED, "--yes")
        await site.look()

    script(worker, steps=(WHOLE[0], erase, WHOLE[1]))
    client = await site.ask(0, ERASED, stream=True)

    assert client.status == 200
    assert client.answer.endswith(b"data: [DONE]\n\n")
    assert b": x-douane-receipt: " in client.answer
    assert site.stored().keys() <= {b"douane:keys"}


async def test_a_receipt_of_an_erased_tenant_is_not_told_again(site: Site) -> None:
    client = await site.ask(0, ERASED)
    receipt_id = "rcpt_" + (client.header("x-request-id") or "").removeprefix("req_")
    assert (await fetch_receipt(f"Bearer {DEMO}", receipt_id, site.workers[1])).status == 200
    assert any(storage_key(receipt_id).encode() in key for key in site.stored())
    douane(site.settings, "shred", ERASED, "--yes")
    await site.look()

    with pytest.raises(TenantErased):
        await fetch_receipt(f"Bearer {DEMO}", receipt_id, site.workers[1])


async def test_a_conversation_from_before_is_judged_at_the_ceiling_after_a_renewal(site: Site) -> None:
    """Its marks are noise now: that it carried nothing cannot be told from that it carried secrets."""
    past = ("what was said", "what was answered", "and now?")
    client = chat(*past, key=DEMO)
    await client.ask(site.workers[0])
    assert "labels=public" in (client.header("x-douane-decision") or "")
    douane(site.settings, "shred", ERASED, "--yes")
    await site.look()
    douane(site.settings, "renew", ERASED)
    again, fresh = chat(*past, key=DEMO), chat("a new question", key=DEMO)
    await again.ask(site.workers[0])
    await fresh.ask(site.workers[0])

    assert "labels=public" not in (again.header("x-douane-decision") or "")
    assert "labels=public" in (fresh.header("x-douane-decision") or "")


async def test_what_no_worker_was_there_to_see_is_recorded_at_the_next_start(
    site: Site, tmp_path: Path
) -> None:
    open_keys(site.settings).ring.salt("nhs-gb")  # no worker holds it
    key_id = open_keys(site.settings).shelf.find("nhs-gb").key_id  # type: ignore[union-attr]
    assert douane(site.settings, "shred", "nhs-gb", "--yes").exit_code == 0
    assert not [one for one in site.records() if one["kind"] == "tenant_shredded"]

    async with open_context(site.settings, DEMO_KEYS):
        pass

    (record,) = [one for one in site.records() if one["kind"] == "tenant_shredded"]
    assert (record["tenant"], record["key_id"]) == ("nhs-gb", key_id)


async def test_gateways_that_share_a_store_must_share_the_folder(site: Site, tmp_path: Path) -> None:
    make_keys(tmp_path / "elsewhere")
    settings = site.settings.model_copy(update={"state_dir": tmp_path / "elsewhere"})

    with pytest.raises(KeyFileInvalid, match="another keys folder is in use with this store"):
        async with open_context(settings, DEMO_KEYS):
            pass
    shared = settings.model_copy(update={"keys_dir": site.settings.state_dir / "keys"})
    await site.ask(0, ERASED)
    async with open_context(shared, DEMO_KEYS) as context:
        script(context)
        client = chat("hello", key=DEMO)
        await client.ask(context)
    assert client.status == 503  # the folder is the same; the master key has to be as well
    assert json.loads(client.answer)["error"]["code"] == "keys_unavailable"


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    make_keys(tmp_path / "state")
    open_keys(settings).ring.salt("acme-de")

    listed = douane(settings, "list")
    asked = CliRunner().invoke(
        tenant, ["shred", "acme-de", "--state-dir", str(settings.state_dir)], input="n\n"
    )
    shredded = douane(settings, "shred", "acme-de", "--yes")
    again = json.loads(douane(settings, "list", "--format", "json").output)
    typo = douane(settings, "shred", "acme-da", "--yes")
    wrong = CliRunner().invoke(tenant, ["shred", "acme-de", "--yes", "--state-dir", str(tmp_path / "other")])
    renewed, twice = douane(settings, "renew", "acme-de"), douane(settings, "renew", "acme-de")

    assert listed.output.startswith("acme-de  key ")
    assert ", wrapped by file\n" in listed.output
    assert asked.exit_code == 1
    assert shredded.output.startswith("shredded 20")
    assert [(one["tenant"], one["state"]) for one in again] == [("acme-de", "shredded")]
    assert (renewed.exit_code, twice.exit_code) == (0, 1)
    assert "nothing to renew" in twice.output
    assert (typo.exit_code, typo.output) == (
        1, "error: tenant `acme-da` has no key here; `douane tenant list` names those that do\n",
    )  # fmt: skip
    assert wrong.exit_code == 3
    assert f"no gateway keeps keys in `{tmp_path}/other/keys`" in wrong.output
    assert not (tmp_path / "other").exists()
    assert "wrapped" not in str(again)
