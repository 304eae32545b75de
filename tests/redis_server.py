"""A real Redis for tests: on a free port of this machine, in memory, ended by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

START_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A `redis-server` process that can be killed, stopped, continued and started again on its port."""

    def __init__(self, directory: Path, options: Sequence[str] = (), tls: bool = False) -> None:
        self.port = free_port()
        self.tls = tls
        self._directory = directory
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns once it answers. Starts empty, for nothing is ever saved."""
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: apt-get install redis-server"
        listen = ["--port", "0", "--tls-port", str(self.port)] if self.tls else ["--port", str(self.port)]
        self._process = subprocess.Popen(
            [program, *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self._directory), "--loglevel", "warning", *self._options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until_s = time.monotonic() + START_S
        while not self._answers():
            code = self._process.poll()
            assert code is None, f"redis-server ended with {code} while it started"
            assert time.monotonic() < until_s, f"redis-server did not answer within {START_S} s"
            time.sleep(0.01)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        if self._process is not None:
            self.resume()
            self.kill()

    def _signal(self, number: int) -> None:
        assert self._process, "redis-server is not running"
        os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                if self.tls:
                    return True
                connection.sendall(b"PING\r\n")
                return connection.recv(64)[:1] in (b"+", b"-")  # an error, too, when it wants a password
        except OSError:
            return False
