"""The client's own mark in its receipt, by which it knows that the receipt was made after the request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.errors import InvalidRequest

HEADER: Final = "x-douane-nonce"
# RFC 3986's unreserved characters: they mean the same in a header, a URL, a file name and a shell.
_NONCE: Final = re.compile(rb"[A-Za-z0-9._~-]{16,128}")


def nonce_of(values: Sequence[bytes]) -> str | None:
    """The nonce that the request's headers of this name give; None without one.

    Raises `InvalidRequest`, which never repeats what was sent.
    """
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(f"the `{HEADER}` header is there more than once; send one nonce")
    if not _NONCE.fullmatch(values[0]):
        raise InvalidRequest(
            f"the `{HEADER}` header is not 16 to 128 characters of `A-Z a-z 0-9 - . _ ~`; "
            "send a new random text with each request, for example `secrets.token_urlsafe(24)`"
        )
    return values[0].decode("ascii")
