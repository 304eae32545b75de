"""What some tests need beside Python: how to see whether it is there, and how to install it.

`@pytest.mark.needs("redis-server")` on a test (or `pytestmark` of a module, or one of FIXTURES among a
test's fixtures) says so. On a machine without the tool the test is not run and the end of the run names it;
with `CI` set it fails instead, so that nothing is ever silently left out there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """A program outside Python; any one of `commands` on the PATH will do."""

    commands: tuple[str, ...]
    install: str

    def present(self) -> bool:
        """Whether one of the commands is on the PATH."""
        return any(shutil.which(command) for command in self.commands)


TOOLS = {
    "redis-server": Tool(("redis-server",), "apt-get install redis-server"),
    "aarch64-c++": Tool(("aarch64-linux-gnu-g++",), "apt-get install g++-aarch64-linux-gnu"),
    "c++": Tool(("c++", "g++", "clang++"), "apt-get install g++"),
    "curl": Tool(("curl",), "apt-get install curl"),
    "git": Tool(("git",), "apt-get install git"),
    "make": Tool(("make",), "apt-get install make"),
    "qemu-aarch64": Tool(("qemu-aarch64-static", "qemu-aarch64"), "apt-get install qemu-user-static"),
}

FIXTURES = dict.fromkeys(("redis_server", "session_redis", "own_redis"), "redis-server")


def missing(names: set[str]) -> dict[str, Tool]:
    """Those of `names` that are not here. Raises KeyError for a tool that TOOLS does not list."""
    return {name: TOOLS[name] for name in sorted(names) if not TOOLS[name].present()}
