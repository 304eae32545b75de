"""Texts that are made to be slow to read: by size in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


def repeated(unit: str) -> Callable[[int], str]:
    return lambda size: (unit * (size // len(unit) + 1))[:size]


HOSTILE: Final[dict[str, Callable[[int], str]]] = {
    "digits": repeated("4"),
    "short groups": repeated("1 2 3 4 "),
    "cards that are none": repeated("4111 1111 1111 1112 "),
    "plus signs": repeated("+1 1 1 1 1 1 1 1 "),
    "at signs": repeated("a@"),
    "one long name": lambda size: "a" * (size - 1) + "@",
    "domains": repeated("a@b.c.d.e.f.g.h."),
    "token beginnings": repeated("eyJ-"),
    "one token": lambda size: "eyJ" + "A" * (size - 3),
    "unclosed keys": repeated("-----BEGIN PRIVATE KEY-----\n"),
    "keys closed by another end": repeated("-----BEGIN PRIVATE KEY----- -----END CERTIFICATE----- "),
    "names of passwords": repeated("password="),
    "names without values": repeated("password = \\\\ "),
    "accounts": repeated("DE89"),
    "credentials": repeated("https://a:"),
    "invisible": repeated("4\u200b"),
    "parentheses": repeated("(((((1"),
}
