"""Processes of a bench: started on free ports of loopback, timed by the kernel, ended by their own handle."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_S: Final = 60.0
STOP_S: Final = 20.0
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class NotStarted(Exception):
    """A process that the bench needs is missing or did not come up; says what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """A process that listens on 127.0.0.1:`port`."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """User and system time of the process so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def rss_mib(self) -> float:
        """Resident memory in MiB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def required(program: str, install: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise NotStarted(f"`{program}` is missing; install it with `{install}`")
    return path


@contextmanager
def running(
    name: str,
    command: list[str],
    port: int,
    log: Path,
    *,
    path: str | None = "/healthz",
    environment: Mapping[str, str] | None = None,
    start_s: float = START_S,
) -> Iterator[Server]:
    """Runs `command` until the block ends; enters it once the port answers (`path` None: accepts)."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT,
            env={**clean_environment(), **(environment or {})},
        )  # fmt: skip
    try:
        wait_until_up(name, process, port, path, log, start_s)
        yield Server(name, process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clean_environment() -> dict[str, str]:
    """This process's variables without those that would configure a gateway or a proxy."""
    unwanted = ("DOUANE_", "AWS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(unwanted)}


def wait_until_up(
    name: str, process: subprocess.Popen[bytes], port: int, path: str | None, log: Path, start_s: float
) -> None:
    until_s = time.monotonic() + start_s
    while not answers(port, path):
        if process.poll() is not None or time.monotonic() > until_s:
            tail = log.read_text(errors="replace")[-2000:]
            raise NotStarted(f"`{name}` did not start; its output ends with:\n{tail}")
        time.sleep(0.05)


def answers(port: int, path: str | None) -> bool:
    try:
        if path is None:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
