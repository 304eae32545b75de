"""Every kernel compiles for a Hopper GPU at the released models' shapes, with both versions of triton.

Compiling needs no GPU: launches are recorded on fake tensors, and compiled in a process that does not
interpret. What is asserted of the machine code decides whether a kernel can run, and near which speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.test_pins import pins

# Some sixty kernels a process, a second each and more while others work.
pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[4]
SHARED_BYTES = 227 << 10
"""What a program may have on a GPU of compute capability 9.0."""

DECODING = ("1", "2", "4", "8", "16", "32", "64", "3", "5", "12", "48")
ATTENTION, EXPERTS = ("qkv", "attend", "out", "head", "sample"), ("route", "experts")
ALONE = (1, "bfloat16")
WEIGHTS = ("qkv", "out", "head", "experts")
"""Operations that read more weights than anything else."""


def told(folder: Path | None, *arguments: str) -> Any:
    """What `compiling` prints, with the triton of a folder or that of this environment."""
    path = [str(ROOT), *([] if folder is None else [str(folder)])]
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(reversed(path))}
    command = [sys.executable, "-m", "tests.local_engine.ops.triton.compiling", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="class")
def kernels(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """All that the launches of a class's operations compile to."""
    # fp32 is a mode to look for errors in, and slow to compile: once is enough.
    dtypes = "bfloat16,float32" if request.cls.folder is None else "bfloat16"
    found: list[dict[str, Any]] = told(request.cls.folder, dtypes, *request.cls.ops)
    return found


@pytest.fixture(scope="class")
def launches() -> dict[str, Any]:
    """What steps launch."""
    found: dict[str, Any] = told(None, "launches")
    return found


class Gate:
    """What holds of every kernel of some operations. Each subclass may be on another worker."""

    folder: Path | None = None
    ops: tuple[str, ...]

    def test_every_operation_is_there(self, kernels: list[dict[str, Any]]) -> None:
        assert {one["op"] for one in kernels} == set(self.ops)

    def test_shared_memory_suffices(self, kernels: list[dict[str, Any]]) -> None:
        assert [one for one in kernels if one["shared_bytes"] > SHARED_BYTES] == []

    def test_no_register_is_spilled(self, kernels: list[dict[str, Any]]) -> None:
        used = [one for one in kernels if one["dtype"] == "bfloat16"]

        assert used
        assert [one for one in used if one["spills"] or one["stack_bytes"]] == []

    def test_whoever_may_start_early_waits_for_what_it_reads(self, kernels: list[dict[str, Any]]) -> None:
        assert [one for one in kernels if not one["waits"]] == []

    def test_weights_are_loaded_16_bytes_at_a_time(self, kernels: list[dict[str, Any]]) -> None:
        reading = [one for one in kernels if one["op"] in WEIGHTS and one["dtype"] == "bfloat16"]

        assert [one for one in reading if not one["loads"].get("128")] == []


class ExpertsGate(Gate):
    """Kernels whose speed is that of decoding."""

    ops = EXPERTS

    def test_a_weight_takes_five_instructions_at_most_and_32_of_them_one_load_of_a_scale(
        self, kernels: list[dict[str, Any]]
    ) -> None:
        alone = [one for one in kernels if one["op"] == "experts" and (one["rows"], one["dtype"]) == ALONE]

        assert {one["kernel"] for one in alone} == {"up", "down"}
        for one in alone:
            size = one["constants"]
            parts = size.get("P") or size["Q"] * size["S"]
            weights = size["R"] * parts * size["GT"] // one["warps"]  # of one thread in one turn of the loop
            narrow = sum(count for bits, count in one["loop_loads"].items() if int(bits) < 128)
            assert one["loop"] <= 5 * weights, (one["loop"] / weights, one)
            assert 1 <= narrow <= weights / 32, one


class TestAttentionWithTheTritonInUse(Gate):
    """The pinned version."""

    ops = ATTENTION


class TestAttentionWithTheOldestTriton(Gate):
    """The oldest that the metadata allows."""

    folder = Path(sys.prefix) / "triton-3.6"
    ops = ATTENTION


class TestExpertsWithTheTritonInUse(ExpertsGate):
    """The pinned version."""


class TestExpertsWithTheOldestTriton(ExpertsGate):
    """The oldest that the metadata allows."""

    folder = Path(sys.prefix) / "triton-3.6"


class TestLaunches:
    """What a step launches, whatever compiles it."""

    def test_a_layer_of_a_decode_step_takes_six_launches_at_most(self, launches: dict[str, Any]) -> None:
        for model in ("20b", "120b"):
            for rows in DECODING:
                assert len(launches["layer"][model][rows]) <= 6, launches["layer"][model][rows]

    def test_every_configuration_is_of_use_to_some_step(self, launches: dict[str, Any]) -> None:
        assert launches["unused"] == []

    def test_each_triton_is_the_one_that_is_meant(self, launches: dict[str, Any]) -> None:
        oldest = told(Path(sys.prefix) / "triton-3.6", "version")

        assert launches["triton"] == pins("cpu.txt")["triton"][0]
        assert oldest == pins("triton-3.6.txt")["triton"][0]
