"""The host's kernels: built once from the C++ beside this file, kept in the user's cache, loaded with ctypes.

Some seconds' work of the system's own compiler. The result is named after what it was made from (sources,
compiler, flags, processor) and after its own digest, so that a file cut short is seen before it is loaded. It
shares the OpenMP runtime that torch has brought: two pools of threads that spin beside each other on the same
cores make both twenty times slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

# Before anything else of OpenMP: the first runtime in a process is the one that all share.
import torch

log = logging.getLogger("local_engine.ops")

SOURCES = Path(__file__).parent / "cpp"
COMPILERS = ("c++", "g++", "clang++")
COMPILE = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden")
COMPILE_S = 120.0
INSTALL = "install a C++ compiler (`apt-get install g++`, `xcode-select --install`)"
RUNTIMES = ("libgomp", "libomp", "libiomp5")


class CannotBuild(Exception):
    """The kernels cannot be built here; says why and what to do."""


def load(folder: Path | None = None) -> ctypes.CDLL | None:
    """The kernels, built if `folder` (the user's cache) does not hold them yet; None where they cannot be.

    Why not, and that everything works without them, only slower, is logged.
    """
    try:
        return ctypes.CDLL(str(built(folder or kernels_folder(), compiler())))
    except (CannotBuild, OSError) as error:
        log.warning("the CPU kernels are not used, which makes the engine several times slower: %s", error)
        return None


def kernels_folder() -> Path:
    """Where built kernels are kept: `$XDG_CACHE_HOME/douane/kernels`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "douane" / "kernels"


def compiler() -> list[str]:
    """The command of the C++ compiler: `$CXX`, or the first there is. Raises `CannotBuild` without one."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise CannotBuild(f"there is no C++ compiler: {INSTALL}")


def built(folder: Path, command: Sequence[str]) -> Path:
    """The shared library in `folder`, made now unless a whole one is there. Raises `CannotBuild`.

    Safe beside others that do the same: a library appears under its name all at once. Where `folder` cannot
    be written, it is made anew for each process in a folder that only this user can read.
    """
    key = _key(command)
    for there in sorted(folder.glob(f"{key}-*.so")):
        if there.name == _name(key, there):
            return there
        there.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            made = _make(command, Path(scratch))
            return made.replace(folder / _name(key, made))
    except OSError as error:
        scratch = tempfile.mkdtemp(prefix="douane-kernels-")
        log.info("`%s` cannot be written (%s): building the CPU kernels in `%s`", folder, error, scratch)
        return _make(command, Path(scratch))


def openmp_runtime() -> Path | None:
    """The OpenMP runtime that torch has loaded into this process, None where it is not to be found."""
    for path in _mapped():
        if path.name.startswith(RUNTIMES):
            return path
    return None


def _mapped() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        # macOS has no such list; there torch's own copy is the only one.
        yield from sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.dylib"))
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6:
            yield Path(fields[5])


def _openmp() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags for compiling and for linking. Against torch's own file, for its name may be one of its own."""
    runtime = openmp_runtime()
    if runtime is None:
        return (), ()
    flags = ("-Xclang", "-fopenmp") if platform.system() == "Darwin" else ("-fopenmp",)
    return flags, (str(runtime),)


def _make(command: Sequence[str], folder: Path) -> Path:
    compile_flags, link_flags = _openmp()
    object_file, library = folder / "cpu.o", folder / "cpu.so"
    source = SOURCES / "cpu.cpp"
    _run([*command, *COMPILE, *compile_flags, "-c", str(source), "-o", str(object_file)])
    # Linked apart from the compiler's own `-fopenmp`, which would bring the system's runtime.
    _run([*command, "-shared", str(object_file), *link_flags, "-o", str(library)])
    return library


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            command, capture_output=True, text=True, errors="replace", timeout=COMPILE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"`{command[0]}` does not run: {error}; {INSTALL}") from None
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[:12])
        raise CannotBuild(f"`{shlex.join(command)}` failed with exit status {done.returncode}:\n{said}")
    return done.stdout


def _key(command: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    version = _run([*command, "--version"])
    digest.update(repr((command, version, COMPILE, _openmp(), platform.machine())).encode())
    return digest.hexdigest()[:20]


def _name(key: str, library: Path) -> str:
    return f"{key}-{hashlib.sha256(library.read_bytes()).hexdigest()[:20]}.so"
