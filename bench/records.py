"""What a record and a receipt cost: `python -m bench.records` prints one JSON object.

CPU is the process's own (all threads), the lowest of several batches: what the code needs, without what the
machine's other tenants take. Wall time is the median of the batches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.chain import time_text
from gateway.audit.files import Durability, FileAudit, Keeping, open_file_audit
from gateway.audit.records import Begin, End, Tried
from gateway.backends.base import Upstream, Usage
from gateway.clock import SystemClock
from gateway.facts import Facts
from gateway.labels import Labels
from gateway.places import Place
from gateway.receipts.digest import body_digest
from gateway.receipts.jwk import PublicKey
from gateway.receipts.receipt import (
    AnswerClaim,
    AttemptClaim,
    AuditClaim,
    CacheClaim,
    GatewayClaim,
    ModelClaim,
    PolicyClaim,
    Receipt,
    RequestClaim,
    UsageClaim,
)
from gateway.receipts.signer import ReceiptSigner, SigningKey

Work = Callable[[FileAudit, int], Awaitable[None]]

BATCHES = 15
CONCURRENT = 16

FACTS = Facts("acme-de", "DE", "support", "gpt-oss-20b", Labels("confidential", frozenset({"personal"})))
UPSTREAM = Upstream("bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1", "5d0e3f1c-8a51", False)
REVISION = "sha256:" + "b" * 64
RULES = ("infer-anywhere", "personal-data-of-eea-tenants-stays-in-the-eea")
USAGE = Usage(812, 240, 120, 0)
PLACE = Place(
    id="bedrock-frankfurt",
    kind="bedrock",
    models={"gpt-oss-20b": "openai.gpt-oss-20b-1:0"},
    region="eu-central-1",
    partition="aws",
    country="DE",
    zones=frozenset({"DE", "EU", "EEA"}),
    operator="aws",
    regimes=frozenset({"us-cloud-act"}),
    attestations=frozenset(),
    source="derived",
    host="bedrock-runtime.eu-central-1.amazonaws.com",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds for one operation."""

    cpu_us: float
    wall_us: float


async def cost(operation: Callable[[int], Awaitable[None]], count: int) -> Cost:
    """Of one of the `count` operations that `operation(count)` does."""
    cpu, wall = [], []
    for _ in range(BATCHES):
        cpu_from, wall_from = time.process_time_ns(), time.perf_counter_ns()
        await operation(count)
        cpu.append((time.process_time_ns() - cpu_from) / count / 1000)
        wall.append((time.perf_counter_ns() - wall_from) / count / 1000)
    return Cost(round(min(cpu), 2), round(statistics.median(wall), 2))


def begin() -> Begin:
    return Begin(
        "req_" + "0" * 32, "key-1", FACTS, REVISION, 7, RULES, "9f86d081", (PLACE.id,), False, "c" * 64
    )


def end() -> End:
    tried = (Tried("local-engine", "saturated", "first"), Tried(PLACE.id, "answered", "spill", UPSTREAM))
    return End(
        "req_" + "0" * 32, 1, "acme-de", "answered", 200, tried, "miss", "rcpt_" + "0" * 32, None, USAGE,
        812_240, "d" * 64,
    )  # fmt: skip


async def append_one(audit: FileAudit) -> None:
    record = begin()
    await audit.append(record.kind, record.fields())


async def append_concurrently(audit: FileAudit, count: int) -> None:
    """CONCURRENT requests at a time, each waiting for its own record."""
    for _ in range(count // CONCURRENT):
        await asyncio.gather(*(append_one(audit) for _ in range(CONCURRENT)))


async def append_in_turn(audit: FileAudit, count: int) -> None:
    for _ in range(count):
        await append_one(audit)


def receipt(audit: FileAudit) -> Receipt:
    """As for a request that spilled over: two attempts, a cache miss, every claim filled."""
    return Receipt(
        id="rcpt_" + "0" * 32,
        issued_at=time_text(SystemClock().now()),
        outcome="answered",
        status=200,
        request=RequestClaim("req_" + "0" * 32, "a" * 64, 1200),
        answer=AnswerClaim("body", "b" * 64, 1600),
        tenant="acme-de",
        labels=FACTS.labels.names(),
        policy=PolicyClaim(REVISION, 7, RULES),
        gateway=GatewayClaim("gateway", "DE", "self"),
        attempts=(
            AttemptClaim.of(PLACE, "throttled", UPSTREAM, "first"),
            AttemptClaim.of(PLACE, "answered", UPSTREAM, "retry"),
        ),
        cache=CacheClaim("miss", "store-redis"),
        model=ModelClaim("gpt-oss-20b", "gpt-oss-20b"),
        usage=UsageClaim.of(USAGE),
        audit=AuditClaim.of(audit.replica, audit.head),
    )


async def measure(directory: Path) -> dict[str, object]:
    private = Ed25519PrivateKey.generate()
    signer = ReceiptSigner(SigningKey(private, PublicKey(private.public_key().public_bytes_raw(), False)))
    keeping = Keeping(signer.sign_checkpoint)  # as the gateway does: a checkpoint every 1,000 records
    results: dict[str, Cost] = {}

    async def with_audit(name: str, durability: Durability, work: Work, count: int) -> None:
        audit = open_file_audit(directory / name, SystemClock(), durability, keeping=keeping)
        results[name] = await cost(partial(work, audit), count)
        await audit.aclose()

    async def sign(audit: FileAudit, count: int) -> None:
        made = receipt(audit)
        for _ in range(count):
            signer.sign(made)

    async def raw_sign(audit: FileAudit, count: int) -> None:
        message = b"x" * 2300
        for _ in range(count):
            private.sign(message)

    async def digests(audit: FileAudit, count: int) -> None:
        request, answer = b"x" * 1200, b"y" * 1600
        for _ in range(count):
            body_digest(request)
            body_digest(answer)

    async def whole_request(audit: FileAudit, count: int) -> None:
        for _ in range(count):
            record = begin()
            await audit.append(record.kind, record.fields())
            last = end()
            await audit.append(last.kind, last.fields())
            signer.sign(receipt(audit))

    await with_audit("append_written", "written", append_in_turn, 1000)
    await with_audit("append_written_at_16", "written", append_concurrently, 1600)
    await with_audit("append_synced_at_16", "synced", append_concurrently, 320)
    await with_audit("sign_receipt", "written", sign, 300)
    await with_audit("sign_raw_ed25519", "written", raw_sign, 300)
    await with_audit("digest_request_and_answer", "written", digests, 300)
    await with_audit("begin_end_and_sign", "written", whole_request, 300)
    sample = open_file_audit(directory / "sample", SystemClock())
    size = len(signer.sign(receipt(sample)))
    await sample.aclose()
    return {
        "us_per_operation": {name: asdict(one) for name, one in results.items()},
        "receipt_bytes_two_attempts": size,
        "machine": {"python": platform.python_version(), "cpu": platform.machine(), "cores": os.cpu_count()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--json", action="store_true", help="print JSON (always so)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
        print(json.dumps(asyncio.run(measure(Path(directory))), indent=2))


if __name__ == "__main__":
    main()
