"""Unique tokens, and a search that finds one in whatever form a program may have written it down."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


def new_token() -> str:
    """Twenty random letters and digits, which begin with a word that nothing else holds."""
    return "kanari" + secrets.token_hex(7)


def forms(token: str) -> dict[str, bytes]:
    """Every form that is searched for, by name. Those in letters of either case are given in lower case."""
    data = token.encode()
    return {
        "raw": data.lower(),
        "hex": data.hex().encode(),
        "url": "".join(f"%{byte:02x}" for byte in data).encode(),
        "json": "".join(f"\\u{ord(letter):04x}" for letter in token).encode(),
        "escaped bytes": "".join(f"\\x{byte:02x}" for byte in data).encode(),
        "utf-16": token.lower().encode("utf-16-le"),
        "reversed": data.lower()[::-1],
    }


def base64_forms(token: str) -> dict[str, bytes]:
    """What base64 of any text around the token must hold: one form for each of the three alignments."""
    found = {}
    for shift in range(3):
        # Bytes before and after decide the first and the last characters, so those are left out.
        whole = base64.b64encode(b"\0" * shift + token.encode())
        start = -(-shift * 8 // 6)
        whole_groups = (shift + len(token)) * 8 // 6
        found[f"base64 at {shift}"] = whole[start:whole_groups]
    return found


@dataclass(frozen=True, slots=True)
class Finding:
    """A token that was found where it may not be."""

    token: str
    form: str
    place: str


def search(tokens: Mapping[str, str], places: Mapping[str, bytes]) -> list[Finding]:
    """Every token, named by where it was planted, in every place and form."""
    found = []
    for place, content in places.items():
        lowered = content.lower()
        for name, token in tokens.items():
            found += [Finding(name, form, place) for form, data in forms(token).items() if data in lowered]
            # A token is letters and digits, so both alphabets of base64 write it alike.
            found += [
                Finding(name, form, place) for form, data in base64_forms(token).items() if data in content
            ]
    return found


def files_under(*folders: Path, but: Iterable[str] = ()) -> dict[str, bytes]:
    """The content of every file below the folders, but those of a name in `but`."""
    return {
        str(path): path.read_bytes() + str(path).encode()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }
