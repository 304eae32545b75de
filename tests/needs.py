"""What some tests need beside Python: how to see whether it is there, and how to install it.

`@pytest.mark.needs("redis-server")` on a test (or `pytestmark` of a module, or one of FIXTURES among a
test's fixtures) says so. On a machine without the tool the test is not run and the end of the run names it;
with `CI` set it fails instead, so that nothing is ever silently left out there.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """A program outside Python; any one of `commands` on the PATH will do.

    Where being there is not enough, one of `trials` must end well when it is run.
    """

    commands: tuple[str, ...]
    install: str
    trials: tuple[str, ...] = ()

    def present(self) -> bool:
        """Whether one of the commands is on the PATH, and one of the trials works."""
        found = any(shutil.which(command) for command in self.commands)
        return found and (not self.trials or any(works(trial) for trial in self.trials))


@functools.cache
def works(trial: str) -> bool:
    return subprocess.run(trial.split(), capture_output=True).returncode == 0


# As root, else as root of a user namespace: a network, a mount and a TUN device of its own.
AS_ROOT_OR_USER = (
    "unshare --net --mount sh -c exec<>/dev/net/tun",
    "unshare --map-root-user --net --mount sh -c exec<>/dev/net/tun",
)

TOOLS = {
    "redis-server": Tool(("redis-server",), "apt-get install redis-server"),
    "aarch64-c++": Tool(("aarch64-linux-gnu-g++",), "apt-get install g++-aarch64-linux-gnu"),
    "c++": Tool(("c++", "g++", "clang++"), "apt-get install g++"),
    "curl": Tool(("curl",), "apt-get install curl"),
    "git": Tool(("git",), "apt-get install git"),
    "make": Tool(("make",), "apt-get install make"),
    "ip": Tool(("ip",), "apt-get install iproute2"),
    "network-namespace": Tool(
        ("unshare",),
        "run as root, or let users make namespaces (sysctl kernel.unprivileged_userns_clone=1 and, with "
        "AppArmor, kernel.apparmor_restrict_unprivileged_userns=0), with `unshare`, `mount` and /dev/net/tun "
        "there; in a container: --cap-add SYS_ADMIN --cap-add NET_ADMIN --device /dev/net/tun",
        trials=AS_ROOT_OR_USER,
    ),
    "qemu-aarch64": Tool(("qemu-aarch64-static", "qemu-aarch64"), "apt-get install qemu-user-static"),
}

FIXTURES = dict.fromkeys(("redis_server", "session_redis", "own_redis"), "redis-server")


def missing(names: set[str]) -> dict[str, Tool]:
    """Those of `names` that are not here. Raises KeyError for a tool that TOOLS does not list."""
    return {name: TOOLS[name] for name in sorted(names) if not TOOLS[name].present()}
