"""Everything that one run of the bench starts: upstream, Redis, the bare forwarder and Douane."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from bench.processes import Server, free_port, python, required, running
from gateway.keys.opening import MASTER_KEY
from gateway.keys.wrapping import MasterKey
from gateway.opening import RECEIPT_KEY
from gateway.receipts.keys import create_key

POLICIES: Final = Path(__file__).parent.parent / "policies"
TENANT: Final = "bench"
# Limits that are all counted and never met: what is measured is the reservation, not a refusal.
LIMITS: Final = {
    "requests_per_minute": 100_000_000,
    "tokens_per_minute": 100_000_000_000,
    "usd_per_day": 1_000_000,
    "max_concurrent": 100_000,
}


@dataclass(frozen=True, slots=True)
class Stack:
    """The running servers; `key` is an API key of the bench's tenant in Douane."""

    upstream: Server
    redis: Server
    bare: Server
    douane: Server
    key: str
    directory: Path
    policies: Path


@contextmanager
def running_stack(directory: Path) -> Iterator[Stack]:
    """One worker each, on free ports. Raises `bench.processes.NotStarted`."""
    key = f"sk-bench-{secrets.token_hex(16)}"
    policies = write_policies(directory / "policies", key)
    with ExitStack() as stack:
        upstream = stack.enter_context(running_upstream(directory))
        redis = stack.enter_context(running_redis(directory))
        bare = stack.enter_context(running_bare(directory, upstream))
        douane = stack.enter_context(running_douane("douane", directory, policies, upstream, redis.port))
        yield Stack(upstream, redis, bare, douane, key, directory, policies)


@contextmanager
def running_upstream(directory: Path) -> Iterator[Server]:
    port = free_port()
    command = python("-m", "bench.upstream", str(port))
    with running("upstream", command, port, directory / "upstream.log") as server:
        yield server


@contextmanager
def running_redis(directory: Path) -> Iterator[Server]:
    port = free_port()
    command = [
        required("redis-server", "apt-get install redis-server"), "--port", str(port), "--bind", "127.0.0.1",
        "--save", "", "--appendonly", "no", "--dir", str(directory), "--loglevel", "warning",
        "--maxmemory", "1gb", "--maxmemory-policy", "volatile-ttl",
    ]  # fmt: skip
    with running("redis", command, port, directory / "redis.log", path=None) as server:
        yield server


@contextmanager
def running_bare(directory: Path, upstream: Server) -> Iterator[Server]:
    port = free_port()
    with running(
        "bare", python("-m", "bench.bare", str(port), upstream.url), port, directory / "bare.log"
    ) as server:
        yield server


@contextmanager
def running_douane(
    name: str, directory: Path, policies: Path, upstream: Server, redis_port: int, database: int = 0
) -> Iterator[Server]:
    """A gateway with everything on: authentication, residency, limits, cache, audit `written`, receipts.

    Its keys are its own, and so must its `database` be.
    """
    port = free_port()
    state = directory / name
    state.mkdir(mode=0o700)
    MasterKey.create(state / MASTER_KEY)
    create_key(state / RECEIPT_KEY)
    environment = {
        "DOUANE_PORT": str(port),
        "DOUANE_POLICIES": str(policies),
        "DOUANE_STATE_DIR": str(state),
        "DOUANE_REDIS_URL": f"redis://127.0.0.1:{redis_port}/{database}",
        "DOUANE_ENGINE_URL": upstream.url,
        "DOUANE_ENGINE_SECRET": secrets.token_hex(16),
        "DOUANE_BEDROCK": "off",
    }
    command = python("-m", "gateway", "serve")
    with running(name, command, port, directory / f"{name}.log", environment=environment) as server:
        yield server


def write_policies(directory: Path, key: str) -> Path:
    """The default bundle, and a tenant in the EEA, `internal` by default, with every kind of limit."""
    shutil.copytree(POLICIES, directory)
    tenants = directory / "tenants.yaml"
    content = yaml.safe_load(tenants.read_text(encoding="utf-8"))
    content["tenants"].append(
        {
            "id": TENANT,
            "zone": "DE",
            "purpose": "general",
            "labels": {"default": ["internal"]},
            "limits": LIMITS,
            "keys": [{"id": "load", "sha256": hashlib.sha256(key.encode()).hexdigest()}],
        }
    )
    tenants.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return directory
