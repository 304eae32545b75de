"""The Lua scripts that run inside Redis, read from the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source and the SHA-1 under which Redis knows it once it is loaded."""

    source: str
    sha: str


@dataclass(frozen=True, slots=True)
class Scripts:
    enter: Script
    leave: Script
    owed: Script
    accept: Script

    def each(self) -> tuple[Script, ...]:
        return (self.enter, self.leave, self.owed, self.accept)


def load_scripts() -> Scripts:
    return Scripts(
        enter=script("epoch", "limits", "enter"),
        leave=script("epoch", "limits", "leave"),
        owed=script("epoch", "owed"),
        accept=script("epoch", "accept"),
    )


def script(*names: str) -> Script:
    """Lua has no import inside Redis: the files are joined, and their local functions see each other."""
    folder = files("gateway.store") / "lua"
    source = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
