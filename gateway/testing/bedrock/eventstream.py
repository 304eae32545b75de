"""Encodes frames of AWS's binary event stream; botocore only decodes them.

A frame is `total length, header length, CRC of those eight bytes, headers, payload, CRC of everything
before it`, all numbers big-endian 32-bit. A header is `name length (1 byte), name, type (7 = string),
value length (2 bytes), value`.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Mapping
from struct import pack
from typing import Any

import orjson

STRING_HEADER = 7


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame with string headers."""
    encoded = b"".join(header(name, value) for name, value in headers.items())
    lengths = pack(">II", 12 + len(encoded) + len(payload) + 4, len(encoded))
    body = lengths + pack(">I", crc32(lengths)) + encoded + payload
    return body + pack(">I", crc32(body))


def header(name: str, value: str) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode()
    return (
        pack(">B", len(name_bytes)) + name_bytes + pack(">BH", STRING_HEADER, len(value_bytes)) + value_bytes
    )


def event(event_type: str, members: Mapping[str, Any]) -> bytes:
    """An event; its payload is the bare object of the member, not wrapped in the member's name."""
    return frame(
        {":event-type": event_type, ":content-type": "application/json", ":message-type": "event"},
        orjson.dumps(members),
    )


def exception(exception_type: str, members: Mapping[str, Any]) -> bytes:
    """A modelled exception inside a stream, by its member's name, such as `throttlingException`."""
    return frame(
        {
            ":exception-type": exception_type,
            ":content-type": "application/json",
            ":message-type": "exception",
        },
        orjson.dumps(members),
    )


def corrupted(whole: bytes) -> bytes:
    """The same frame with the last byte of its checksum flipped."""
    return whole[:-1] + bytes([whole[-1] ^ 0xFF])
