"""Where Redis is: its URL, its certificate, and errors that never show a password."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import redis
import trustme
from redis.asyncio.connection import SSLConnection

from gateway.facts import Limits
from gateway.store.address import Address, StoreMisconfigured, parse_url
from gateway.store.base import Put
from gateway.store.redis import RedisStore
from tests.redis_server import RedisServer, free_port
from tests.store.requests import PATIENT_S, entry, leaving


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address("h", 6379, 0, False, None, None, None)),
        ("redis://h:1/2", Address("h", 1, 2, False, None, None, None)),
        ("redis://:p%40ss@h", Address("h", 6379, 0, False, None, None, "p@ss")),
        ("rediss://u:p@h/1?ca_file=/ca.pem", Address("h", 6379, 1, True, Path("/ca.pem"), "u", "p")),
        ("redis://[::1]:7", Address("::1", 7, 0, False, None, None, None)),
    ],
)
def test_a_url_says_where(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://u:hunter2@h", "the Redis URL must begin with `redis://` or `rediss://` (TLS)"),
        ("redis://u:hunter2@h:99999", "the port of the Redis URL is not a number from 1 to 65535"),
        ("redis://", "the Redis URL names no host; write `redis://host:6379/0`"),
        ("redis://:hunter2@h/x", "the path of the Redis URL must be the number of a database, such as `/0`"),
        (
            "rediss://:hunter2@h?ssl_cert_reqs=none",
            "the Redis URL has an option `ssl_cert_reqs` that does not exist; `ca_file` is the only one",
        ),
        ("redis://:hunter2@h?ca_file=x", "`ca_file` in the Redis URL needs TLS; write `rediss://`"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, message: str) -> None:
    with pytest.raises(StoreMisconfigured) as refused:
        parse_url(url)
    assert str(refused.value) == message


def test_no_credential_is_shown() -> None:
    address = parse_url("rediss://user:hunter2@h:1/2")
    assert address.id == "rediss://h:1/2"
    assert "hunter2" not in repr(address)
    assert "user" not in repr(address)


def test_certificates_are_always_verified() -> None:
    connection = parse_url("rediss://h").connection()
    assert isinstance(connection, SSLConnection)
    context = connection.ssl_context.get()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert not isinstance(parse_url("redis://h").connection(), SSLConnection)


def test_a_ca_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured) as refused:
        parse_url(f"rediss://h?ca_file={tmp_path}/none.pem").require_readable_ca()
    assert str(refused.value) == (
        f"the CA file `{tmp_path}/none.pem` of the Redis URL cannot be used (No such file or directory); "
        "name a file in PEM format"
    )


@pytest.mark.needs("redis-server")
async def test_over_tls_only_the_right_certificate_serves(tmp_path: Path) -> None:
    ours, others = trustme.CA(), trustme.CA()
    for name, ca in (("ours", ours), ("others", others)):
        ca.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    certificate = ours.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    files = ("--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem"))
    authority = ("--tls-ca-cert-file", str(tmp_path / "ours.pem"), "--tls-auth-clients", "no")
    server = RedisServer(tmp_path, (*files, *authority), tls=True)
    server.start()
    try:
        url = f"rediss://127.0.0.1:{server.port}/0?ca_file={tmp_path}"
        store = await RedisStore.open(f"{url}/ours.pem", timeout_s=PATIENT_S)
        assert await store.healthy()
        assert (await store.enter(entry())).accepted
        await store.aclose()
        with pytest.raises(StoreMisconfigured) as refused:
            await RedisStore.open(f"{url}/others.pem")
        assert "is not valid for it: self-signed certificate in certificate chain; name its CA" in str(
            refused.value
        )
        wrong_name = f"rediss://localhost:{server.port}/0?ca_file={tmp_path}/ours.pem"
        with pytest.raises(StoreMisconfigured, match="is not valid for it: Hostname mismatch"):
            await RedisStore.open(wrong_name)
    finally:
        server.end()


@pytest.mark.needs("redis-server")
async def test_every_script_stays_within_one_slot_of_a_cluster(tmp_path: Path) -> None:
    """A node in cluster mode refuses a script whose keys hash to different slots."""
    server = RedisServer(tmp_path, ("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
    server.start()
    try:
        with redis.Redis(port=server.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        store = await RedisStore.open(f"redis://127.0.0.1:{server.port}", timeout_s=PATIENT_S)
        for tenant in ("acme", "a}{b:c/é"):
            asked = entry(tenant=tenant, limits=Limits(max_concurrent=1), cache_key="k")
            assert (await store.enter(asked)).accepted
            await store.leave(
                leaving(asked, answer="a", cached=Put("k", b"v", 60), puts=(Put("r", b"w", 60),))
            )
            assert (await store.enter(entry(tenant=tenant, cache_key="k"))).cached == b"v"
            assert (await store.accept_epoch(tenant))[0] == "a"
        assert await store.healthy()
        await store.aclose()
    finally:
        server.end()
