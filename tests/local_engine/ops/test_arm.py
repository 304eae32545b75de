"""The kernels on ARM: cross-compiled, and run by an emulator, with dot products of bytes and without."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from local_engine import int8
from local_engine.ops import compiled
from local_engine.ops.native import EIGHT_BITS, FLOATS
from tests.local_engine.kernels import packed
from tests.local_engine.ops.test_native import IN_BYTES, ROUNDED, SUMMED, error, layer_of, mixed, routed

pytestmark = pytest.mark.needs("aarch64-c++", "qemu-aarch64")

BF16, FP32 = torch.bfloat16, torch.float32
DRIVER = Path(__file__).with_name("driver.cpp")
LEVELS = [0, 1]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the driver."""
    out = tmp_path_factory.mktemp("arm") / "driver"
    flags = ["-O2", "-std=c++17", "-static", "-I", str(compiled.SOURCES)]
    subprocess.run(["aarch64-linux-gnu-g++", *flags, str(DRIVER), "-o", str(out)], check=True)
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    assert emulator is not None
    return [emulator, "-cpu", "max", str(out)]


def computed(
    program: list[str],
    numbers: Sequence[int],
    tensors: Sequence[torch.Tensor],
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """What the driver makes of a call; the size of the result goes behind the first three numbers."""
    size = shape[0] * shape[1] * dtype.itemsize
    said = b"".join(n.to_bytes(8, "little") for n in (*numbers[:3], size, *numbers[3:]))
    for tensor in tensors:
        said += tensor.nbytes.to_bytes(8, "little") + bytes(
            tensor.contiguous().view(torch.uint8).flatten().numpy()
        )
    done = subprocess.run(program, input=said, capture_output=True, check=True)
    return torch.frombuffer(bytearray(done.stdout), dtype=dtype).view(shape)


@pytest.mark.parametrize("rows", [1, 3, 11])
@pytest.mark.parametrize("level", LEVELS)
def test_dense_products_on_arm_are_those_of_fp64(program: list[str], level: int, rows: int) -> None:
    torch.manual_seed(0)
    n, k = 37, 90
    for dtype in (FP32, BF16):
        x, w = torch.randn(rows, k).to(dtype), torch.randn(n, k).to(dtype)
        stored = int8.encode(w)
        for kind, weight, decoded in (
            (FLOATS, w, w),
            (EIGHT_BITS, stored, int8.decode(stored, k, FP32)),
        ):
            numbers = [0, level, 8 * dtype.itemsize, kind, rows, k, n]
            found = computed(program, numbers, [x, weight], (rows, n), FP32)
            bound = SUMMED if kind == FLOATS or dtype == FP32 else IN_BYTES if rows <= 8 else ROUNDED
            assert error(found, x.double() @ decoded.double().T) < bound


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("level", LEVELS)
def test_experts_on_arm_are_those_of_fp64(program: list[str], level: int, rows: int) -> None:
    torch.manual_seed(0)
    experts, top, hidden, inner = 5, 3, 96, 160
    for dtype in (FP32, BF16):
        layer = layer_of(packed(experts, 2 * inner, hidden, dtype), packed(experts, hidden, inner, dtype))
        given, x = routed(rows, experts, top, hidden, dtype), torch.randn(rows, hidden).to(dtype)
        halves = [part for m in (layer.mlp1, layer.mlp2) for part in (m.blocks, m.scales, m.bias)]
        numbers = [1, level, 8 * dtype.itemsize, rows, top, experts, hidden, inner]

        found = computed(
            program, numbers, [given.t, given.ids, given.weights, *halves, x], (rows, hidden), dtype
        )

        assert error(found, mixed(given, layer, x)) < (SUMMED if dtype == FP32 else IN_BYTES)
