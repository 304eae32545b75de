"""The two digests of a receipt, exactly as a client recomputes them. All are SHA-256 in lowercase hex.

request     over the body's bytes as they arrived (no header, no transfer coding).
answer      `body`: over the body's bytes as they were sent, an error's body included.
            `stream`: over the `data:` payloads of the SSE events in their order, one after the other with
            nothing between, up to the receipt; an error event counts, comments and `[DONE]` do not.
"""

from __future__ import annotations

import hashlib
from typing import Final

from gateway.receipts.delivery import COMMENT_PREFIX

_DONE: Final = b"[DONE]"


def body_digest(body: bytes) -> str:
    """Of a request's body, or of a plain answer's."""
    return hashlib.sha256(body).hexdigest()


class StreamDigest:
    """Grows with each `data:` payload that is delivered; `size` counts their bytes."""

    __slots__ = ("_hash", "size")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, data: bytes) -> None:
        """`data` is one event's payload, without `data: ` and line ends."""
        self._hash.update(data)
        self.size += len(data)

    def hexdigest(self) -> str:
        """Of everything added so far; more may follow."""
        return self._hash.hexdigest()


def transcript_digest(transcript: bytes) -> str:
    """Of a streamed answer as a client saved it, for example with `curl --no-buffer --output`."""
    digest = StreamDigest()
    for line in transcript.splitlines():
        if line.startswith(COMMENT_PREFIX):
            break
        if line.startswith(b"data:"):
            payload = line[5:].removeprefix(b" ")
            if payload == _DONE:
                break
            digest.add(payload)
    return digest.hexdigest()
