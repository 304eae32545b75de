"""How fast this machine reads memory: the best of several ways, all threads at once, over more than a GiB.

A rate that an engine is held against must not be below what it could have had, so whatever reads fastest
counts: a compiled loop where there is a compiler, torch's sum, numpy's sum, and copying into a corner of the
cache.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    Words = npt.NDArray[np.uint64]

BYTES = 5 << 28
"""Read at a time: 1.25 GiB, far more than any cache."""
CORNER_BYTES = 64 << 10
"""Where copies go: it stays in the second level of the cache."""
PASSES = 3
LOOP = Path(__file__).with_name("read.c")


class Reader:
    """The buffer and the ways to read it. `best` is in GB/s, by way, over all `measure` calls so far."""

    def __init__(self, threads: int, nbytes: int = BYTES) -> None:
        # Ones in fp32, so that no sum meets numbers that a processor is slow with.
        floats = np.ones(nbytes // 4, dtype=np.float32)
        self._tensor = torch.from_numpy(floats)
        self._words: Words = floats.view(np.uint64)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self.best: dict[str, float] = {}
        self._ways: dict[str, Callable[[], object]] = {
            "torch sum": self._torch_sum,
            "numpy sum": lambda: self._shared(np.sum),
            "copy into the cache": lambda: self._shared(_copied),
        }
        if (loop := compiled_loop()) is not None:
            self._ways["compiled loop"] = lambda: self._shared(loop)

    @property
    def gb_per_s(self) -> float:
        """The best of all ways. Raises `ValueError` before the first `measure`."""
        return max(self.best.values())

    def measure(self) -> None:
        """Each way a few times."""
        for name, way in self._ways.items():
            for _ in range(PASSES):
                began_s = time.perf_counter()
                way()
                rate = self._words.nbytes / (time.perf_counter() - began_s) / 1e9
                self.best[name] = max(rate, self.best.get(name, 0.0))

    def _torch_sum(self) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        self._tensor.sum()
        torch.set_num_threads(before)

    def _shared(self, read: Callable[[Words], object]) -> None:
        """Each thread reads its part."""
        list(self._pool.map(read, np.array_split(self._words, self._threads)))


def _copied(words: Words) -> None:
    corner = np.empty(CORNER_BYTES // 8, dtype=np.uint64)
    for at in range(0, len(words) - len(corner) + 1, len(corner)):
        np.copyto(corner, words[at : at + len(corner)])


def compiled_loop() -> Callable[[Words], object] | None:
    """`read.c` compiled for this processor; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="douane-bench-") as folder:
        built = Path(folder) / "read.so"
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(LOOP), "-o", str(built)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        read: Any = ctypes.CDLL(str(built)).read_words
    read.restype, read.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_size_t]
    return lambda words: read(words.ctypes.data, len(words))
