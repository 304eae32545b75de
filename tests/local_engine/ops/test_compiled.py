"""The host's kernels are built once, survive what happens to files, and are done without if need be."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from local_engine.errors import SetupError
from local_engine.opening import EngineOptions, ops_for
from local_engine.ops import compiled, cpu, exact

pytestmark = pytest.mark.needs("c++")


SOURCE = """
#include <atomic>
static std::atomic<int> taken;
extern "C" __attribute__((visibility("default"))) int best_set() {
#pragma omp parallel
  taken++;
  return taken > 0 ? 2 : 0;
}
"""
"""As fast to build as the kernels are slow."""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something small in place of the kernels."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/cpu.cpp").write_text(SOURCE)
    monkeypatch.setattr(compiled, "SOURCES", tmp_path / "sources")


@pytest.fixture
def folder(tmp_path: Path, small: None) -> Path:
    """A folder with what was built from that."""
    compiled.built(tmp_path / "built", compiled.compiler())
    return tmp_path / "built"


def compiler_that(path: Path, script: str) -> Path:
    """A program in place of a compiler."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def counted(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `$CXX` the compiler with a list of what it was called with; returns the list."""
    calls = tmp_path / "calls"
    calls.touch()
    [real] = compiled.compiler()
    script = compiler_that(tmp_path / "counted", f'echo "$@" >> {calls}; exec {real} "$@"')
    monkeypatch.setenv("CXX", str(script))
    return calls


def builds(calls: Path) -> int:
    """How often something was compiled."""
    return sum(" -c " in line for line in calls.read_text().splitlines())


def test_what_is_built_is_built_once(tmp_path: Path, counted: Path) -> None:
    first, second = (compiled.built(tmp_path / "cache", compiled.compiler()) for _ in range(2))

    assert first == second
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]
    assert builds(counted) == 1
    assert compiled.load(tmp_path / "cache") is not None


@pytest.mark.parametrize("damage", [b"", b"not a library", None], ids=["empty", "another file", "cut short"])
def test_a_damaged_library_is_built_again(folder: Path, damage: bytes | None, tmp_path: Path) -> None:
    [whole] = folder.glob("*.so")
    copy = tmp_path / whole.name
    copy.write_bytes(whole.read_bytes()[:-100] if damage is None else damage)

    kernels = compiled.load(tmp_path)

    assert kernels is not None
    assert kernels.best_set() == 2
    [rebuilt] = tmp_path.glob("*.so")
    assert rebuilt.stat().st_size > 10_000


def test_another_compiler_or_other_flags_build_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = compiled.compiler()
    before = compiled.built(folder, command)
    script = compiler_that(
        tmp_path / "other", f'[ "$1" = --version ] && echo other || exec {command[0]} "$@"'
    )

    assert compiled.built(folder, [str(script)]) != before
    monkeypatch.setattr(compiled, "COMPILE", (*compiled.COMPILE, "-DOTHER"))
    assert compiled.built(folder, command) != before


def test_two_that_build_at_once_both_succeed(tmp_path: Path, counted: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: compiled.built(tmp_path / "cache", compiled.compiler()), range(2)))

    assert all(path.is_file() for path in found)
    assert builds(counted) == 2
    assert not list((tmp_path / "cache").glob("build-*"))


@pytest.mark.usefixtures("small")
def test_where_nothing_can_be_kept_it_is_built_for_this_process(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()

    library = compiled.built(blocked / "kernels", compiled.compiler())

    assert tmp_path not in library.parents
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700


def test_a_compiler_that_fails_is_quoted_and_everything_is_plain_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = compiler_that(
        tmp_path / "failing", '[ "$1" = --version ] || { echo "no such flag" >&2; exit 3; }'
    )
    monkeypatch.setenv("CXX", str(failing))

    with caplog.at_level(logging.WARNING, "local_engine.ops"):
        ops = ops_for(EngineOptions())

    assert ops is cpu.OPS
    [record] = caplog.records
    assert "no such flag" in record.getMessage()
    assert "exit status 3" in record.getMessage()
    assert str(failing) in record.getMessage()


@pytest.mark.parametrize("cxx", ["", "/no/such/compiler"])
def test_without_a_compiler_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cxx: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", cxx)

    with caplog.at_level(logging.WARNING, "local_engine.ops"):
        assert compiled.load() is None

    [record] = caplog.records
    assert "apt-get install g++" in record.getMessage()


def test_the_kernels_are_taken_on_the_host_only_and_only_if_wanted() -> None:
    assert ops_for(EngineOptions()) not in (cpu.OPS, exact.OPS)
    assert ops_for(EngineOptions(dtype="fp32")) not in (cpu.OPS, exact.OPS)
    assert ops_for(EngineOptions(kernels="eager")) is cpu.OPS
    assert ops_for(EngineOptions(dtype="fp32", exact=True)) is exact.OPS
    assert ops_for(EngineOptions(device="cuda")) is not ops_for(EngineOptions())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (EngineOptions(dense="int8", exact=True, dtype="fp32"), "not for exact arithmetic"),
        (EngineOptions(dense="int8", device="cuda"), "on the CPU"),
        (EngineOptions(dense="int8", kernels="eager"), "needs the compiled kernels"),
    ],
    ids=["exact", "cuda", "plain torch"],
)
def test_int8_that_is_not_to_be_had_is_refused(options: EngineOptions, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        ops_for(options)


RUNTIMES = """
import json, torch
torch.randn(300, 300) @ torch.randn(300, 300)
from local_engine.ops import compiled, native
library = native.Library(compiled.load())
library.linear(torch.randn(64, 64), (torch.randn(640, 64),))
lines = [line.split()[-1] for line in open("/proc/self/maps")]
runtimes = sorted({line for line in lines if line.rpartition("/")[2].startswith(compiled.RUNTIMES)})
threads = sum(1 for _ in __import__("pathlib").Path("/proc/self/task").iterdir())
print(json.dumps([runtimes, threads]))
"""


def test_torch_and_the_kernels_share_one_pool_of_threads() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", RUNTIMES], capture_output=True, text=True, check=True, env=environment
    )
    runtimes, threads = json.loads(done.stdout)

    assert runtimes == [str(compiled.openmp_runtime())]
    assert str(Path(torch.__file__).parent) in runtimes[0]
    # Another pool would have brought two more.
    assert threads <= 3 + 1
