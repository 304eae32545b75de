"""How a record becomes a link of its replica's chain. Pure: no file, no clock.

A line is the record's canonical JSON with one member added at its end:

    {"kind":"begin", ... ,"prev":"<64 hex>","replica":"...","seq":7,"time":"...","v":1,"hash":"<64 hex>"}

`hash` is the SHA-256 of the same object without that member. Canonical is: keys sorted at every depth, no
blanks, UTF-8 without `\\u` escapes beyond those JSON demands, numbers only as integers. In Python that is
`json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()`.
`prev` is the hash of the record before it, 64 zeros for the first, whose `seq` is 1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from gateway.audit.base import Sealed

VERSION: Final = 1
GENESIS: Final = Sealed(sequence=0, hash="0" * 64)
CHAIN_FIELDS: Final = frozenset({"v", "replica", "seq", "time", "kind", "prev", "hash"})
RECORD_BYTES_MAX: Final = 1 << 20
INTEGER_MAX: Final = (1 << 53) - 1  # what every JSON reader keeps exactly

_HASH_MEMBER: Final = b',"hash":"'
_SUFFIX_BYTES: Final = len(_HASH_MEMBER) + 64 + len(b'"}')
_CANONICAL: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_UTC_Z
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class NotARecord(ValueError):
    """A line that was never sealed: cut, not JSON, or not in canonical form."""


@dataclass(frozen=True, slots=True)
class Link:
    """One line of a chain, read back. `fields` holds what the record's kind carries."""

    replica: str
    sequence: int
    time: str
    kind: str
    previous: str
    hash: str  # as the line states it
    computed: str  # as its content gives it
    fields: Mapping[str, Any]

    @property
    def intact(self) -> bool:
        return self.hash == self.computed


def time_text(moment: datetime) -> str:
    """`2026-11-23T15:19:03.123456Z`; `moment` must be in UTC."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def seal(
    replica: str, head: Sealed, kind: str, moment: datetime, fields: Mapping[str, Any]
) -> tuple[bytes, Sealed]:
    """The line (with its line end) that follows `head`, and its place in the chain; `moment` is in UTC.

    Raises ValueError when `fields` use a name of the chain's own, hold a number that is not an exact
    integer, or are too long; TypeError when they are not JSON values.
    """
    if not CHAIN_FIELDS.isdisjoint(fields):
        taken = sorted(CHAIN_FIELDS.intersection(fields))
        raise ValueError(f"`{', '.join(taken)}` belongs to the chain; give the record's field another name")
    _refuse_inexact(fields.values())
    sequence = head.sequence + 1
    body = orjson.dumps(
        {
            **fields,
            "kind": kind,
            "prev": head.hash,
            "replica": replica,
            "seq": sequence,
            # orjson writes a UTC time as `time_text` does, and faster, except at a whole second.
            "time": moment if moment.microsecond else time_text(moment),
            "v": VERSION,
        },
        option=_CANONICAL,
    )
    if len(body) > RECORD_BYTES_MAX - _SUFFIX_BYTES:
        raise ValueError(f"a record of {len(body)} bytes is over the limit of {RECORD_BYTES_MAX}")
    digest = hashlib.sha256(body).hexdigest()
    return b"".join((body[:-1], _HASH_MEMBER, digest.encode(), b'"}\n')), Sealed(sequence, digest)


def unseal(line: bytes) -> Link:
    """The record of one line (without its line end), whether or not its hash fits. Raises NotARecord."""
    if len(line) > RECORD_BYTES_MAX:
        raise NotARecord(f"the line has {len(line)} bytes; a record has at most {RECORD_BYTES_MAX}")
    if line[-_SUFFIX_BYTES:-66] != _HASH_MEMBER or line[-2:] != b'"}':
        raise NotARecord("the line does not end with the member `hash`")
    stated = line[-66:-2].decode("ascii", "replace")
    body = line[:-_SUFFIX_BYTES] + b"}"
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise NotARecord("the line is not JSON") from None
    # The round trip also catches a key that stands twice, which a JSON reader would hide.
    if not isinstance(record, dict) or orjson.dumps(record, option=orjson.OPT_SORT_KEYS) != body:
        raise NotARecord("the line is not an object in canonical form (keys sorted, none twice, no blanks)")
    return _link(record, stated, hashlib.sha256(body).hexdigest())


def _link(record: dict[str, Any], stated: str, computed: str) -> Link:
    version, replica, sequence = record.pop("v", None), record.pop("replica", None), record.pop("seq", None)
    time, kind, previous = record.pop("time", None), record.pop("kind", None), record.pop("prev", None)
    if version != VERSION or isinstance(version, bool):
        raise NotARecord(f"`v` is not {VERSION}; use a douane that knows this version of the records")
    if not isinstance(sequence, int) or isinstance(sequence, bool) or not 1 <= sequence <= INTEGER_MAX:
        raise NotARecord("`seq` is not a whole number from 1")
    if not isinstance(time, str) or not _TIME.fullmatch(time):
        raise NotARecord("`time` is not a UTC time with microseconds, such as `2026-11-23T15:19:03.123456Z`")
    if not isinstance(replica, str) or not isinstance(kind, str):
        raise NotARecord("`replica` or `kind` is not a string")
    if not isinstance(previous, str) or not _HEX64.fullmatch(previous) or not _HEX64.fullmatch(stated):
        raise NotARecord("`prev` or `hash` is not 64 hexadecimal digits")
    return Link(replica, sequence, time, kind, previous, stated, computed, record)


def _refuse_inexact(values: Iterable[Any]) -> None:
    """Raises ValueError at a number that two JSON writers could spell differently."""
    for value in values:
        kind = type(value)
        if kind is str or kind is bool or value is None:
            continue
        if kind is int:
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                raise ValueError("a record's integers lie within ±(2⁵³ - 1)")
        elif kind is float:
            raise ValueError(
                "a record has no fractions; give the number in a smaller unit, as `cost_usd_nano` does"
            )
        elif kind is dict:
            _refuse_inexact(value.values())
        elif kind is list or kind is tuple:
            _refuse_inexact(value)
