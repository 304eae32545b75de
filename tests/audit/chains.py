"""Chains to attack: built with the standard library alone, as a stranger would from the documentation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

REPLICA = "0123456789abcdef"


def canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def record_hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(canonical({k: v for k, v in record.items() if k != "hash"})).hexdigest()


def line_of(record: dict[str, Any]) -> bytes:
    """The record's line, with `hash` last, whatever its value."""
    body = canonical({k: v for k, v in record.items() if k != "hash"})
    return body[:-1] + b',"hash":"' + str(record["hash"]).encode() + b'"}'


def rehashed(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = {**record, **changes}
    return {**changed, "hash": record_hash(changed)}


def chain(count: int, replica: str = REPLICA) -> list[dict[str, Any]]:
    """`count` records: `begin` and `end` of one request after another."""
    records: list[dict[str, Any]] = []
    previous = "0" * 64
    for sequence in range(1, count + 1):
        kind = "begin" if sequence % 2 else "end"
        record = rehashed(
            {
                "v": 1,
                "replica": replica,
                "seq": sequence,
                "time": f"2026-01-01T00:00:{sequence % 60:02d}.000000Z",
                "kind": kind,
                "prev": previous,
                "request": f"req_{(sequence + 1) // 2}",
                "tenant": "acme-de",
            }
        )
        previous = record["hash"]
        records.append(record)
    return records


def written(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
