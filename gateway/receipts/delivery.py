"""How a receipt reaches the client: a header on a plain answer, an SSE comment on a stream."""

from __future__ import annotations

import json
import re
from typing import Final

HEADER: Final = "x-douane-receipt"
HEADER_BYTES_MAX: Final = 4096
COMMENT_PREFIX: Final = b": x-douane-receipt: "

_DELIVERED: Final = re.compile(rb"^(?:: )?x-douane-receipt: ([\w.-]+)\r?$", re.IGNORECASE | re.MULTILINE)
_COMPACT: Final = re.compile(r"[\w-]+\.[\w-]*\.[\w-]*", re.ASCII)
_ID: Final = re.compile(r"rcpt_[0-9a-f]{32}")


class NoReceipt(ValueError):
    """A text in which no receipt can be found, or more than one."""


def header_value(receipt_id: str, jws: str) -> str:
    """The receipt itself, or its id alone where it is longer than servers and proxies let through."""
    return jws if len(jws) <= HEADER_BYTES_MAX else receipt_id


def stream_comment(jws: str) -> bytes:
    """The SSE comment that stands before `data: [DONE]`; readers of events skip it."""
    return b"%s%s\n\n" % (COMMENT_PREFIX, jws.encode())


def find_receipt(text: bytes) -> str:
    """The compact JWS in `text`.

    That is the JWS alone, saved response headers, a saved stream, or what `/v1/receipts/{id}` answered.
    Raises NoReceipt.
    """
    alone = _stored(text) or text.strip().decode("utf-8", "replace")
    found = {match[1].decode() for match in _DELIVERED.finditer(text)} or {alone}
    if len(found) > 1:
        raise NoReceipt("there is more than one receipt in the input; give one at a time")
    (one,) = found
    if _ID.fullmatch(one):
        raise NoReceipt(f"`{one}` is a receipt's id; fetch the receipt itself from `/v1/receipts/{one}`")
    if not _COMPACT.fullmatch(one):
        raise NoReceipt(
            f"there is no receipt in the input; give the value of the header `{HEADER}`, or a saved answer"
        )
    return one


def _stored(text: bytes) -> str | None:
    """The member `jws` of what `GET /v1/receipts/{id}` answers; None for anything else."""
    try:
        document = json.loads(text) if text.lstrip().startswith(b"{") else None
    except (ValueError, RecursionError):
        return None
    jws = document.get("jws") if isinstance(document, dict) else None
    return jws if isinstance(jws, str) else None
