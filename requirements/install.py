"""Makes the virtual environment and installs the pinned packages: `python3 requirements/install.py run|dev`.

What the Makefile calls before every target. A stamp in the environment holds a digest of all that decides
what is installed, so a second call returns at once. Standard library only, and written so that an older
Python can read it far enough to say that it is too old.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
PINS = {"run": "requirements/run.txt", "dev": "requirements/dev.txt"}  # dev holds every line of run and more
TORCH = "requirements/torch.txt"
TRITON = "requirements/cpu.txt"
OLD_TRITON = "requirements/triton-3.6.txt"
OLD_TRITON_FOLDER = "triton-3.6"  # in the environment: found only by what puts it in front


def digest(pins: str, venv: Path) -> str:
    """Hex digest of all that decides: pins, project metadata, interpreter, the environment's path."""
    total = hashlib.sha256()
    for name in (pins, TORCH, TRITON, OLD_TRITON, "pyproject.toml", "requirements/install.py"):
        total.update(name.encode() + b"\0" + (ROOT / name).read_bytes() + b"\0")
    total.update(sys.version.encode() + b"\0" + str(venv).encode())
    return total.hexdigest()


def problem_with_this_python() -> str | None:
    """What keeps this interpreter from making the environment, or None."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        return f"`{sys.executable}` is Python {found}, douane needs 3.11 or later: make PYTHON=python3.11 ..."
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        return f"`{sys.executable}` has no venv module: install it (on Debian: apt-get install {name})"
    return None


def pip(python: Path, *arguments: str) -> None:
    """Runs pip of the environment; its own lines only when it fails. Raises CalledProcessError."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", *arguments]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - no shell, arguments from this file


def torch_brings_triton(python: Path) -> bool:
    """Whether the installed torch is built for an accelerator: such a build asks for a triton of its own."""
    code = "import torch; print(torch.version.cuda or torch.version.hip or '')"
    asked = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    return bool(asked.stdout.strip())


def install(kind: str, venv: Path) -> None:
    """Installs the pins of `kind` ("run" or "dev"), torch, and this tree as an editable package; for
    development also both versions of triton that kernels are compiled with."""
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making {venv.name} with {sys.executable}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)  # noqa: S603
    print(f"installing {PINS[kind]} (with hashes; a few minutes the first time)", flush=True)
    pip(python, "install", "--require-hashes", "--no-deps", "-r", PINS[kind])
    print("installing torch", flush=True)
    pip(python, "install", "-r", TORCH)
    if kind == "dev":
        print("installing triton", flush=True)
        if not torch_brings_triton(python):
            pip(python, "install", "--require-hashes", "--no-deps", "-r", TRITON)
        old = ["--upgrade", "--target", str(venv / OLD_TRITON_FOLDER), "--require-hashes", "--no-deps"]
        pip(python, "install", *old, "-r", OLD_TRITON)
    pip(python, "install", "--no-deps", "--no-build-isolation", "-e", ".")
    pip(python, "check")


def main() -> int:
    """Exit 0 when the environment is as pinned, 1 when it could not be made so."""
    parser = argparse.ArgumentParser(description="make the environment and install the pinned packages")
    parser.add_argument("kind", choices=sorted(PINS))
    parser.add_argument("--venv", default=os.environ.get("VENV", ".venv"))
    options = parser.parse_args()
    venv = Path(options.venv) if os.path.isabs(options.venv) else ROOT / options.venv
    stamps = {kind: venv / f".installed-{kind}" for kind in PINS}
    for kind in {options.kind, "dev"}:
        if stamps[kind].exists() and stamps[kind].read_text() == digest(PINS[kind], venv):
            return 0
    problem = problem_with_this_python()
    if problem:
        print(problem, file=sys.stderr)
        return 1
    try:
        for stamp in stamps.values():
            if stamp.exists():
                stamp.unlink()  # an installation that is cut short must not look finished
        install(options.kind, venv)
    except subprocess.CalledProcessError as failed:
        print(f"`{' '.join(failed.cmd)}` exited {failed.returncode}: see above", file=sys.stderr)
        return 1
    stamps[options.kind].write_text(digest(PINS[options.kind], venv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
