"""What an emulated region received: the oracle for "this region was never called".

Every connection and every request is written down, refused and unsigned ones too. A record holds metadata
and a digest of the body, never the body.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import orjson


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection (with TLS: after its handshake), whether or not a request came over it."""

    at: str
    region: str
    peer: str
    kind: str = "connection"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came and how it was answered; `path` is undecoded, `signed_region` only a claim."""

    at: str
    region: str
    method: str
    path: str
    operation: str | None
    model_id: str | None
    access_key: str | None
    signed_region: str | None
    body_bytes: int
    body_sha256: str
    status: int
    error: str | None
    fault: str | None
    kind: str = "request"


@dataclass(frozen=True, slots=True)
class Control:
    """A request to the emulator's own paths under `/_emulator/`."""

    at: str
    region: str
    path: str
    kind: str = "control"


Entry = Connection | Received | Control


class Ledger:
    """Entries in order of arrival, in memory and, when a path is given, appended to a JSON-lines file."""

    def __init__(self, path: Path | None = None) -> None:
        self._entries: list[Entry] = []
        self._file: IO[bytes] | None = path.open("ab", buffering=0) if path else None

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        if self._file:
            self._file.write(orjson.dumps(asdict(entry)) + b"\n")

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    @property
    def requests(self) -> tuple[Received, ...]:
        return tuple(entry for entry in self._entries if isinstance(entry, Received))

    @property
    def connections(self) -> tuple[Connection, ...]:
        return tuple(entry for entry in self._entries if isinstance(entry, Connection))

    def wire(self) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self._entries]

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
