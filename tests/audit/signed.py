"""An audit as the gateway writes it: two replicas, checkpoints, closed files; with an attacker's tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from gateway.audit.checkpoint import Checkpoint, read_checkpoint
from gateway.audit.files import FileAudit, Keeping, open_file_audit
from gateway.clock import ManualClock
from gateway.receipts.signer import ReceiptSigner

from .chains import line_of, rehashed

EVERY = 4  # records between two checkpoints
FILE_BYTES = 1500  # two checkpoints or so
Records = list[dict[str, Any]]


def opened(
    directory: Path, signer: ReceiptSigner, clock: ManualClock | None = None, **options: Any
) -> FileAudit:
    options = {"checkpoint_records": EVERY, "file_bytes": FILE_BYTES, **options}
    keeping = Keeping(signer.sign_checkpoint, **options)
    return open_file_audit(directory, clock or ManualClock(), keeping=keeping)


async def record(audit: FileAudit, requests: Sequence[int]) -> None:
    """`begin` and `end` of each request."""
    for number in requests:
        await audit.append("begin", {"request": f"req_{number}", "tenant": "acme-de"})
        await audit.append("end", {"request": f"req_{number}", "tenant": "acme-de"})


async def two_replicas(directory: Path, signer: ReceiptSigner) -> tuple[Path, Path]:
    """Each has several closed files and a live one, which ends in a checkpoint and three records more."""
    audits = [opened(directory, signer) for _ in range(2)]
    for audit in audits:
        await record(audit, range(1, 11))
        audit.checkpoint()
        await record(audit, (11,))
        await audit.append("begin", {"request": "req_12", "tenant": "acme-de"})
    # As a crash would leave them: closing writes a last checkpoint.
    for audit in audits:
        audit._keeping = None
        await audit.aclose()
    first, second = sorted(audit.path for audit in audits)
    return first, second


def files_of(live: Path) -> list[Path]:
    """All files of a chain, the oldest first."""
    return [*sorted(live.parent.glob(f"{live.stem}-*.jsonl")), live]


def read(live: Path) -> Records:
    return [json.loads(line) for path in files_of(live) for line in path.read_bytes().splitlines()]


def write(live: Path, records: Records) -> None:
    """Puts the records back, each file beginning with the checkpoint that it began with."""
    paths = files_of(live)
    firsts = [json.loads(path.read_bytes().splitlines()[0])["seq"] for path in paths]
    for index, path in enumerate(paths):
        low = 0 if index == 0 else firsts[index]
        high = firsts[index + 1] if index + 1 < len(paths) else None
        inside: Records = []
        at = 0
        for one in records:
            at = one["seq"] if isinstance(one["seq"], int) else at
            if at >= low and (high is None or at < high):
                inside.append(one)
        path.write_bytes(b"".join(line_of(one) + b"\n" for one in inside))


def relinked(records: Records, sign: Callable[[Checkpoint], str] | None = None) -> Records:
    """The chain with every number, `prev` and hash made anew; with `sign`, its checkpoints too."""
    anew: Records = []
    previous: dict[str, Any] = {"seq": 0, "hash": "0" * 64}
    if records and records[0]["seq"] > 1:
        previous = {"seq": records[0]["seq"] - 1, "hash": records[0]["prev"]}
    for one in records:
        changes: dict[str, Any] = {"seq": previous["seq"] + 1, "prev": previous["hash"]}
        if sign is not None and one["kind"] == "checkpoint":
            was = read_checkpoint(one["jws"])
            changes["jws"] = sign(replace(was, sequence=previous["seq"], hash=previous["hash"]))
        previous = rehashed(one, **changes)
        anew.append(previous)
    return anew


def last_checkpoint(records: Records) -> str:
    return str(next(one["jws"] for one in reversed(records) if one["kind"] == "checkpoint"))


async def aged(directory: Path, signer: ReceiptSigner) -> Path:
    """A chain whose older files were removed by retention, on the record."""
    clock = ManualClock()
    audit = opened(directory, signer, clock, keep_days=30)
    await record(audit, range(1, 11))
    clock.advance(timedelta(days=31).total_seconds())
    await record(audit, range(11, 16))
    assert audit.drop_expired() > 0
    await record(audit, (16,))
    await audit.aclose()
    return audit.path
