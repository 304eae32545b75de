"""What somebody kept outside the audit: checkpoints and receipts, each naming a record of a chain, signed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.audit.checkpoint import CHECKPOINT_TYPE, verify_checkpoint
from gateway.receipts.jwk import PublicKey
from gateway.receipts.jws import Malformed, NotGenuine, kind_of
from gateway.receipts.signer import TYPE as RECEIPT_TYPE
from gateway.receipts.verify import verify_receipt

_BYTES_MAX: Final = 256 << 20
_COMPACT: Final = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


class AnchorUnusable(Exception):
    """A file that holds nothing to check against, or something that no pinned key has signed."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Record `sequence` of `replica` had this `hash`, says a signed statement at `file`:`line`."""

    replica: str
    sequence: int
    hash: str
    what: str  # `a checkpoint` or `the receipt rcpt_…`
    file: str
    line: int


def read_anchors(paths: Iterable[Path], pinned: Mapping[str, PublicKey]) -> tuple[Anchor, ...]:
    """Every anchor in the files, and in the files of directories.

    A file may hold checkpoints, receipts, saved headers or streams, one or many: whatever in it is a JWS.
    Raises AnchorUnusable.
    """
    return tuple(anchor for path in paths for file in _files(path) for anchor in _read(file, pinned))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path]


def _read(path: Path, pinned: Mapping[str, PublicKey]) -> list[Anchor]:
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise AnchorUnusable(f"`{path}` cannot be read: {error.strerror}") from error
    if len(content) > _BYTES_MAX:
        raise AnchorUnusable(f"`{path}` is larger than {_BYTES_MAX} bytes; give it in pieces")
    anchors: list[Anchor] = []
    found = False
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        for match in _COMPACT.finditer(line):
            found = True
            try:
                anchors += _anchors(match[0], str(path), number, pinned)
            except (Malformed, NotGenuine) as error:
                raise AnchorUnusable(f"`{path}:{number}` cannot be an anchor: {error}") from error
    if not found:
        raise AnchorUnusable(
            f"`{path}` holds no anchor; give a checkpoint (`douane audit checkpoint`) or receipts of clients"
        )
    if not anchors:
        raise AnchorUnusable(f"the receipts in `{path}` name no record of the audit; give others")
    return anchors


def _anchors(jws: str, file: str, line: int, pinned: Mapping[str, PublicKey]) -> Iterable[Anchor]:
    kind = kind_of(jws)
    if kind == CHECKPOINT_TYPE:
        point = verify_checkpoint(jws, pinned)
        yield Anchor(point.replica, point.sequence, point.hash, "a checkpoint", file, line)
    elif kind == RECEIPT_TYPE:
        receipt = verify_receipt(jws, pinned).receipt
        if (audit := receipt.audit) is not None:
            what = f"the receipt {receipt.id}"
            yield Anchor(audit.replica, audit.sequence, audit.hash, what, file, line)
            if audit.end is not None:
                yield Anchor(audit.replica, audit.end.sequence, audit.end.hash, what, file, line)
    else:
        raise Malformed(f"its header's `typ` is `{kind}`: neither a checkpoint nor a receipt")
