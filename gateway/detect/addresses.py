"""E-mail addresses, and passwords that stand before the `@` of a URL."""

from __future__ import annotations

import re
from typing import Final

from gateway.detect.kinds import Found

AT: Final = r"@"

LOCAL_BYTES_MAX: Final = 64
DOMAIN_BYTES_MAX: Final = 255
LOCAL: Final = re.compile(rb"[A-Za-z0-9\xc0-\xff!#$%&'*+/=?^_`{|}~.\-]+$")
DOMAIN: Final = re.compile(
    rb"(?:[A-Za-z0-9\xc0-\xff](?:[A-Za-z0-9\xc0-\xff\-]{0,61}[A-Za-z0-9\xc0-\xff])?\.)+"
    rb"(?:[A-Za-z\xc0-\xff]{2,24}|[Xx][Nn]--[A-Za-z0-9\-]{2,59})(?![A-Za-z0-9_\xc0-\xff])"
)
# `icon@2x.png`, `lodash@4.17.js`: what ends so is a file.
FILES: Final = re.compile(rb"(?i)\.(?:png|jpe?g|gif|svg|webp|css|m?js|ts|json|ya?ml|tgz|gz|zip|html?)$")
CREDENTIALS: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]{1,15}://[^\s/:@]{0,64}:([^\s/@]{1,128})$")
CREDENTIALS_BYTES_MAX: Final = 220
PLACEHOLDER: Final = re.compile(rb"^(?:[<$%{*\[].*|x+|\.+|pass(?:word)?|secret)$", re.IGNORECASE)


def find_at(data: bytes, at: int, wanted: frozenset[str]) -> Found | None:
    """What stands around the `@` at `at`: a password of a URL, or an address."""
    before = data[max(0, at - CREDENTIALS_BYTES_MAX) : at]
    if b"://" in before and (url := CREDENTIALS.search(before)) is not None:
        if "password" not in wanted or PLACEHOLDER.match(url.group(1)):
            return None
        return Found(at - len(url.group(1)), at, "password")
    return find_email(data, at) if "email" in wanted else None


def find_email(data: bytes, at: int) -> Found | None:
    local = LOCAL.search(data[max(0, at - LOCAL_BYTES_MAX - 1) : at])
    domain = DOMAIN.match(data[at + 1 : at + 1 + DOMAIN_BYTES_MAX])
    if local is None or domain is None or len(local.group()) > LOCAL_BYTES_MAX:
        return None
    name = trimmed(local.group())
    if not name or FILES.search(domain.group()):
        return None
    end = at + 1 + domain.end()
    if name == b"git" and data[end : end + 1] == b":":
        return None  # where a repository is, not who somebody is
    return Found(at - len(name), end, "email")


def trimmed(local: bytes) -> bytes:
    """Without what text puts before an address: quotes, brackets, `mailto=`, the escape of a line break."""
    for mark in (b"=", b"/", b"|", b"'", b"`", b"{", b"?", b"&"):
        local = local.rpartition(mark)[2]
    return local.lstrip(b".*~!#$%^-+")
