"""One `make run` on ports of its own for the snippets that talk to it, ended as Ctrl-C would end it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
READY_WITHIN_S = 90.0
END_WITHIN_S = 30.0
KEY = "dk-demo-of-the-documents-0123456789abcdef"
DOCUMENTED = "127.0.0.1:8080"  # what the documents say, and what `make run` listens on
PLACEHOLDER = "KEY"  # the demo key, in documents


@dataclass(frozen=True, slots=True)
class Stack:
    """A running demo. `printed` is the file that holds everything it has written so far."""

    port: int
    key: str
    printed: Path

    def adapt(self, text: str) -> str:
        """A snippet of the documents, for this stack's address and key."""
        return re.sub(rf"\b{PLACEHOLDER}\b", self.key, text.replace(DOCUMENTED, f"127.0.0.1:{self.port}"))

    def environment(self) -> dict[str, str]:
        """What a reader who followed the document has exported."""
        state = self.printed.parent / "state"
        return commands_environment() | {"DOUANE_DEMO_KEY": self.key, "DOUANE_STATE_DIR": str(state)}


def commands_environment() -> dict[str, str]:
    """This environment with `douane` and `python` on the PATH, as in an activated one."""
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on. Held open together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def running_in_session(session: int) -> list[str]:
    """The command lines of processes of a session, zombies aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of_session = (folder / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " ").strip())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered with 200."""
    try:
        with urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


@contextmanager
def demo_stack(folder: Path) -> Iterator[Stack]:
    """Starts the demo, waits until it is ready, and ends it as Ctrl-C would. Raises when either fails."""
    port, engine_port = free_ports(2)
    printed = folder / "printed.txt"
    environment = commands_environment() | {
        "DOUANE_PORT": str(port),
        "DOUANE_ENGINE_PORT": str(engine_port),
        "DOUANE_DEMO_KEY": KEY,
        "DOUANE_STATE_DIR": str(folder / "state"),
    }
    with printed.open("wb") as output:
        process = subprocess.Popen(
            # `-o`: the environment that these tests run in is the one to use, as it is.
            ["make", "-s", "-o", "venv-run", "run", f"VENV={BIN.parent}"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not answers(f"http://127.0.0.1:{port}/readyz"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the demo did not become ready; it printed:\n{printed.read_text()}")
            time.sleep(0.1)
        yield Stack(port, KEY, printed)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if left := running_in_session(process.pid):
        raise RuntimeError(f"Ctrl-C left processes running: {left}")
