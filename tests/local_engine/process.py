"""Starts an engine as a process of its own on a free port, and ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.local_engine.scripted import SECRET

ROOT = Path(__file__).parents[2]


@dataclass
class EngineProcess:
    """A running engine: its base URL, and what it printed once it has ended."""

    process: subprocess.Popen[str]
    url: str
    announcement: str
    printed: list[str] = field(default_factory=list)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals the process and waits; returns its exit status."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        self.printed += [out, err]
        return self.process.returncode


@contextmanager
def running(arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[EngineProcess]:
    """`python -m <arguments>` as an engine; its first line of output names the URL it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "DOUANE_ENGINE_SECRET": SECRET, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=30)[1]
        yield EngineProcess(process, line.rpartition(" on ")[2].strip(), line.strip())
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=30)
