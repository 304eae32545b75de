"""Checks of this machine: bundle, keys, audit directory, Redis."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.doctor.finding import Finding, Status
from gateway.hidden import told
from gateway.keys.opening import MASTER_KEY, keys_dir, kms_wrapping
from gateway.keys.shelf import FileShelf, Shredded
from gateway.keys.wrapping import KeyFileInvalid, MasterKey, Unwrappable, WrappingUnavailable
from gateway.opening import RECEIPT_KEY, RETIRED_KEYS
from gateway.policy.bundle import Bundle
from gateway.receipts.keys import KeyLock, SigningKeyInvalid, load_retired, load_signing_key
from gateway.settings import Settings, SettingsInvalid
from gateway.store.address import StoreMisconfigured, parse_url

REDIS_TIMEOUT_S: Final = 5.0
FREE_WARN_BYTES: Final = 1 << 30


def examine_machine(settings: Settings, bundle: Bundle) -> Iterator[Finding]:
    """What is on this machine. The bundle is loaded already: its examples hold and its claims are proven."""
    yield here(
        "bundle", Status.OK, f"{bundle.revision[:19]}… (serial {bundle.serial}): examples and claims hold"
    )
    if settings.kms_key_id is None:
        yield master_key(settings.state_dir / MASTER_KEY)
    else:
        yield kms_key(settings)
    yield tenant_keys(keys_dir(settings, settings.state_dir))
    yield receipt_key(
        settings.state_dir / RECEIPT_KEY, settings.state_dir / RETIRED_KEYS, kms_wrapping(settings)
    )
    yield audit_directory(settings.state_dir / "audit")
    if settings.redis_url is None:
        seen = "in the gateway's process: labels of conversations are lost with it"
        yield here("store", Status.OK, seen)
    else:
        yield from redis_store(told(settings.redis_url))


def here(check: str, status: Status, seen: str, fix: str = "") -> Finding:
    return Finding(check, None, status, seen, fix)


def split(check: str, error: Exception) -> Finding:
    """The house's errors say what is wrong, and after a semicolon what to do."""
    seen, _, fix = str(error).partition("; ")
    return here(check, Status.FAIL, seen, fix)


def master_key(path: Path) -> Finding:
    try:
        MasterKey.from_file(path)
    except KeyFileInvalid as error:
        return split("master key", error)
    return here("master key", Status.OK, f"`{path}`, for its owner only")


def kms_key(settings: Settings) -> Finding:
    """Whether the key wraps and unwraps, with the credentials of this machine."""
    check = "kms key"
    try:
        wrapping = kms_wrapping(settings)
        assert wrapping is not None
        probe = b"a probe by douane doctor"
        fits = wrapping.unlock(check, wrapping.lock(check, probe)) == probe
    except (Unwrappable, WrappingUnavailable, SettingsInvalid) as error:
        fix = "allow `kms:Encrypt` and `kms:Decrypt` on this key to the gateway's role"
        return here(check, Status.FAIL, str(error), fix)
    assert fits
    return here(check, Status.OK, f"`{settings.kms_key_id}` in {settings.kms_region} wraps and unwraps")


def tenant_keys(directory: Path) -> Finding:
    """The folder of wrapped keys: whether all in it is one of ours, and reached by its owner alone."""
    check = "tenants' keys"
    if not directory.exists():
        return here(check, Status.OK, f"`{directory}` is not there yet; the first start makes it")
    try:
        entries = FileShelf.open(directory).entries()
    except KeyFileInvalid as error:
        return split(check, error)
    shredded = sum(isinstance(entry, Shredded) for entry in entries)
    seen = f"`{directory}`, for its owner only: {len(entries) - shredded} keys, {shredded} shredded"
    return here(check, Status.OK, seen)


def receipt_key(path: Path, retired: Path, lock: KeyLock | None = None) -> Finding:
    try:
        key = load_signing_key(path, lock=lock)
        load_retired(retired)
    except SigningKeyInvalid as error:
        return split("receipt key", error)
    if key.demo:
        fix = "make a key of your own with `douane receipt new-key`"
        return here("receipt key", Status.WARN, f"`{path}` is a demo key: its receipts prove nothing", fix)
    return here("receipt key", Status.OK, f"`{path}`, for its owner only; key id `{key.kid}`")


def audit_directory(path: Path) -> Finding:
    """Whether records can be written. No chain is claimed: a running gateway holds it."""
    check = "audit directory"
    own = f"give the user that runs douane a directory of its own: `mkdir -m 700 {path}`"
    if not path.exists():
        parent = next(above for above in path.absolute().parents if above.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return here(check, Status.OK, f"`{path}` is not there yet; the first start makes it")
        return here(check, Status.FAIL, f"`{path}` is not there and cannot be made", own)
    mode = stat.S_IMODE(path.stat().st_mode)
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return here(check, Status.FAIL, f"`{path}` cannot be written", own)
    if mode & 0o077:
        seen = f"`{path}` has mode {mode:04o}: others can reach the records"
        return here(check, Status.FAIL, seen, f"`chmod 700 {path}`")
    free = shutil.disk_usage(path).free
    if free < FREE_WARN_BYTES:
        seen = f"`{path}`: {free >> 20} MiB are free"
        return here(check, Status.WARN, seen, "make room: without records, requests are refused")
    return here(check, Status.OK, f"`{path}` can be written")


def redis_store(url: str) -> Iterator[Finding]:
    """Whether Redis answers, would drop labels when it is full, or lose them when it restarts."""
    try:
        address = parse_url(url)
        info = asyncio.run(ask_redis(url))
    except StoreMisconfigured as error:
        yield split("redis", error)
        return
    except (RedisError, OSError, TimeoutError) as error:
        seen = f"`{address.id}` does not answer (`{type(error).__name__}`)"
        yield here("redis", Status.FAIL, seen, "start it, or correct DOUANE_REDIS_URL")
        return
    yield here("redis", Status.OK, f"`{address.id}` answers, version {info.get('redis_version', 'not told')}")
    yield eviction(info)
    yield persistence(info)


async def ask_redis(url: str) -> Mapping[str, Any]:
    """What INFO says. Raises redis-py's `RedisError`, OSError or TimeoutError."""
    connection = parse_url(url).connection()
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_S):
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("INFO")
            lines = (await connection.read_response()).decode(errors="replace").splitlines()
    finally:
        await connection.disconnect(nowait=True)
    pairs = (line.partition(":") for line in lines if ":" in line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def eviction(info: Mapping[str, Any]) -> Finding:
    """With `allkeys-*`, a full Redis drops what conversations have carried."""
    check, policy = "redis eviction", info.get("maxmemory_policy")
    if policy is None:
        return here(check, Status.UNKNOWN, "INFO does not tell `maxmemory_policy`", "look with your provider")
    if policy == "noeviction" or policy.startswith("volatile-"):
        return here(check, Status.OK, f"`{policy}`: labels of conversations are never evicted")
    seen = f"`{policy}`: labels may be evicted, and all of a tenant is then judged at its highest"
    return here(check, Status.FAIL, seen, "set `maxmemory-policy noeviction`")


def persistence(info: Mapping[str, Any]) -> Finding:
    """Without it, each restart is a loss of labels, which is noticed and judged at the highest labels."""
    check = "redis persistence"
    if info.get("aof_enabled") is None:
        return here(check, Status.UNKNOWN, "INFO does not tell `aof_enabled`", "look with your provider")
    if info["aof_enabled"] == "1":
        return here(check, Status.OK, "every write is appended to a file")
    seen = "no append-only file: a restart loses labels, and conversations are then judged at the highest"
    return here(check, Status.WARN, seen, "set `appendonly yes`, unless you accept that (docs/store.md)")
