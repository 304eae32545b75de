"""The real engine as a process, on the demo checkpoint; the checkpoint is written once for all workers."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import orjson

from tests.integration.gateway_process import ROOT, until
from tests.redis_server import free_port

SECRET = "secret-of-the-real-engine-0123456789"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine and its process."""

    url: str
    checkpoint: Path
    process: subprocess.Popen[bytes]
    printed: Path

    def load(self) -> dict[str, int]:
        """How many requests it runs and how many wait."""
        request = Request(f"{self.url}/health", headers={"authorization": f"Bearer {SECRET}"})
        with urlopen(request, timeout=5) as response:
            health = orjson.loads(response.read())
        return {"running": health["running"], "waiting": health["waiting"]}


def demo_checkpoint(shared: Path) -> Path:
    """The checkpoint in a folder that every worker of this run sees."""
    directory = shared / "demo-checkpoint"
    with (shared / "demo-checkpoint.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            part = shared / "demo-checkpoint.part"
            command = [sys.executable, "-m", "local_engine", "make-checkpoint", str(part), "--preset", "demo"]
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            part.rename(directory)
    return directory


@contextmanager
def running_real_engine(
    checkpoint: Path, folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Engine]:
    """Serves the checkpoint on a free port until the block ends."""
    secret_file, printed, port = folder / "engine-secret", folder / "engine-printed.txt", free_port()
    secret_file.write_text(SECRET)
    secret_file.chmod(0o600)
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "local_engine",
                "serve",
                "--model",
                str(checkpoint),
                "--port",
                str(port),
                "--secret-file",
                str(secret_file),
            ],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    engine = Engine(f"http://127.0.0.1:{port}", checkpoint, process, printed)
    try:
        until(lambda: answers(engine), "the engine answers", within_s=90)
        yield engine
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers(engine: Engine) -> bool:
    assert engine.process.poll() is None, f"the engine ended:\n{engine.printed.read_text()}"
    try:
        engine.load()
    except (URLError, OSError):
        return False
    return True
