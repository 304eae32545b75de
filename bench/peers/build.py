"""The environment of the peers: `python -m bench.peers.build` makes `.peers/venv`, and nothing else does.

llama.cpp is compiled there for this very processor, which takes minutes. A stamp holds a digest of what was
asked for, so that a second call returns at once. `gguf`, which is Python alone, is used from there too.
"""

from __future__ import annotations

import hashlib
import importlib
import site
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from bench.processes import NotStarted

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"
ENVIRONMENT = PEERS / "venv"
PINS = ROOT / "requirements" / "peers.txt"
MISSING = "the peers are not built: `make bench-peers` does it once, in a few minutes"


def interpreter(environment: Path = ENVIRONMENT) -> Path:
    """The Python that has llama.cpp. Raises `NotStarted` when it is not there, or of other versions."""
    stamp = environment / ".installed"
    if not stamp.is_file():
        raise NotStarted(MISSING)
    if stamp.read_text(encoding="ascii") != digest():
        raise NotStarted("the peers are of other versions: `make bench-peers` brings them up to date")
    return environment / "bin" / "python"


def import_gguf(environment: Path = ENVIRONMENT) -> ModuleType:
    """The `gguf` package. Raises `NotStarted` when it is not there."""
    interpreter(environment)
    for folder in environment.glob("lib/python3*/site-packages"):
        # Behind everything else: what is installed here comes first.
        site.addsitedir(str(folder))
    return importlib.import_module("gguf")


def digest() -> str:
    """Hex digest of what decides: the pins and the interpreter."""
    return hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()


def main() -> int:
    """Exit 0 when the peers are there, 1 when they could not be built."""
    stamp, python = ENVIRONMENT / ".installed", ENVIRONMENT / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == digest():
        return 0
    stamp.unlink(missing_ok=True)
    print("building llama.cpp for this processor into `.peers/` (minutes, once)", flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "install"]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        subprocess.run([*pip, "--require-hashes", "--no-deps", "-r", str(PINS)], check=True)
        subprocess.run([str(python), "-c", "import gguf, llama_cpp"], check=True)
    except subprocess.CalledProcessError as failed:
        print(f"`{' '.join(map(str, failed.cmd))}` exited {failed.returncode}: see above", file=sys.stderr)
        return 1
    stamp.write_text(digest(), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
