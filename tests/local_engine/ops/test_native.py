"""Products in C++ against the same in fp64, on every instruction set that this processor has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from local_engine import int8, mxfp4, reference
from local_engine.model import Experts, Layer
from local_engine.ops import Routed, cpu
from local_engine.ops.native import Library
from tests.local_engine.kernels import at_the_end, everywhere, packed

FP32, BF16 = torch.float32, torch.bfloat16
DTYPES = [FP32, BF16]
LIMIT = 7.0

# Relative to the size of the result. Sums are in fp32; a result in bf16 is rounded once, by 2^-9 at most,
# half of that on average; activations in bytes are off by up to half a 127th of their group's largest.
SUMMED, ROUNDED, IN_BYTES = 2e-6, 3e-3, 1.2e-2


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The size of the difference, relative to the size of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def layer_of(up: Experts, down: Experts) -> Layer:
    """A layer of which only the experts are looked at."""
    return cast("Layer", SimpleNamespace(mlp1=up, mlp2=down))


def routed(rows: int, experts: int, top: int, hidden: int, dtype: torch.dtype) -> Routed:
    """Random rows, each with experts of its own."""
    ids = torch.stack([torch.randperm(experts)[:top] for _ in range(rows)])
    return Routed(torch.randn(rows, hidden).to(dtype), ids, torch.rand(rows, top).softmax(-1).to(dtype))


def mixed(given: Routed, layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The mixture in fp64, over decoded weights."""

    def wide(experts: Experts) -> Any:
        decoded = mxfp4.decode(experts.blocks, experts.scales, FP32).double()
        return replace(experts, decoded=decoded, bias=experts.bias.double())

    layer = layer_of(wide(layer.mlp1), wide(layer.mlp2))
    return cpu.experts(Routed(given.t.double(), given.ids, given.weights.double()), layer, LIMIT, x.double())


SHAPES = [
    (1, 5120, 2880),
    (3, 37, 90),
    (9, 100, 96),
    (100, 33, 160),
    (130, 70, 2880),
    (8, 64, 4096),
    (17, 5, 7),
]
"""Rows, outputs, inputs: the released ones, few and many rows, and sizes that no vector divides."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dense_products_are_those_of_fp64(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, n, k = shape
    x, w = torch.randn(rows, k).to(dtype), torch.randn(n, k).to(dtype)
    bias, add = torch.randn(n).to(dtype), torch.randn(rows, n).to(dtype)
    product = x.double() @ w.double().T

    for library in everywhere():
        wide = library.linear(x, (w,), bias, add, wide=True)
        assert wide.dtype == FP32
        assert error(wide, product + bias.double() + add.double()) < SUMMED
        assert error(library.linear(x, (w,), wide=True), product) < SUMMED
        assert torch.equal(library.linear(x, (w,), bias, add), wide.to(dtype))


def test_matrices_one_under_the_other_are_one() -> None:
    x, w = torch.randn(3, 96).to(BF16), torch.randn(170, 96).to(BF16)
    bias, add = torch.randn(170).to(BF16), torch.randn(3, 170).to(BF16)

    for library in everywhere():
        whole = library.linear(x, (w,), bias, add)
        assert torch.equal(library.linear(x, torch.split(w, [7, 100, 63]), bias, add), whole)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_products_are_those_of_the_decoded_weights(shape: tuple[int, int, int]) -> None:
    rows, n, k = shape
    weight = torch.randn(n, k) * torch.rand(n, 1)
    stored = int8.encode(weight)
    decoded = int8.decode(stored, k, FP32).double()
    x, bias = torch.randn(rows, k), torch.randn(n)

    for library in everywhere():
        exact = library.linear(x, (stored,), bias)
        assert error(exact, x.double() @ decoded.T + bias.double()) < SUMMED
        rounded = library.linear(x.to(BF16), (stored,), bias.to(BF16), wide=True)
        wanted = x.to(BF16).double() @ decoded.T + bias.to(BF16).double()
        assert error(rounded, wanted) < (IN_BYTES if rows <= 8 else ROUNDED)


MIXTURES = [
    (1, 6, 4, 2880, 320),
    (2, 7, 3, 96, 160),
    (30, 7, 3, 160, 96),
    (100, 4, 2, 2880, 64),
    (5, 4, 4, 64, 64),
]
"""Rows, experts, top, hidden, inner."""


@pytest.mark.parametrize("shape", MIXTURES, ids=str)
def test_the_experts_are_those_of_fp64(shape: tuple[int, int, int, int, int]) -> None:
    rows, experts, top, hidden, inner = shape
    for dtype in DTYPES:
        layer = layer_of(packed(experts, 2 * inner, hidden, dtype), packed(experts, hidden, inner, dtype))
        given, x = routed(rows, experts, top, hidden, dtype), torch.randn(rows, hidden).to(dtype)
        wanted = mixed(given, layer, x)

        for library in everywhere():
            found = library.mixture(given, layer, LIMIT, x)
            assert found.dtype == dtype
            assert error(found, wanted) < (SUMMED if dtype == FP32 else IN_BYTES)


def column(
    byte: int, scale: torch.Tensor, dtype: torch.dtype, rows: int
) -> tuple[Routed, Layer, torch.Tensor]:
    """A mixture that returns column `byte` of the second matrix, which has every byte there, [256, 32] for as
    many experts as scales. Each expert is chosen by `rows` rows."""
    experts = scale.numel()
    blocks = torch.zeros(experts, 256, 1, 16, dtype=torch.uint8)
    blocks[:, :, 0, byte // 2] = torch.arange(256, dtype=torch.uint8)
    down = Experts(
        blocks,
        scale.view(-1, 1, 1).expand(experts, 256, 1).contiguous(),
        torch.zeros(experts, 256).to(dtype),
        None,
    )
    bias = torch.zeros(experts, 64)
    bias[:, 2 * byte] = 2.0
    none = torch.zeros(experts, 64, 8, 16, dtype=torch.uint8)
    up = Experts(none, torch.full((experts, 64, 8), 127, dtype=torch.uint8), bias.to(dtype), None)
    ids = torch.arange(experts).repeat_interleave(rows)[:, None]
    t = torch.zeros(experts * rows, 256).to(dtype)
    return Routed(t, ids, torch.ones(experts * rows, 1).to(dtype)), layer_of(up, down), t


@pytest.mark.parametrize("rows", [1, 9], ids=["few rows", "many rows"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("byte", [0, 1, 31])
def test_every_code_and_scale_is_what_the_decoder_says(byte: int, dtype: torch.dtype, rows: int) -> None:
    scales = torch.arange(256, dtype=torch.uint8)
    given, layer, x = column(byte, scales, dtype, rows)
    weight = mxfp4.decode(layer.mlp2.blocks, layer.mlp2.scales, FP32)[:, :, byte]
    act = reference.swiglu(torch.tensor([2.0, 0.0]), LIMIT)
    wanted = (weight * act).repeat_interleave(rows, 0)
    # Subnormal numbers are nothing here, and from scale 252 on some codes are infinite.
    rtol, finite = 1e-6 if dtype == FP32 else 1e-2, 252 * rows

    for library in everywhere():
        found = library.mixture(given, layer, LIMIT, x).float()
        torch.testing.assert_close(found[:finite], wanted[:finite], rtol=rtol, atol=1e-37)
        assert not found[255 * rows :].isfinite().any()


@pytest.mark.parametrize("rows", [3, 30], ids=["few rows", "many rows"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_gone_bad_spoils_itself_only(rows: int, dtype: torch.dtype, bad: float) -> None:
    given, x = routed(rows, 2, 2, 96, dtype), torch.randn(rows, 96).to(dtype)
    layer = layer_of(packed(2, 128, 96, dtype), packed(2, 96, 64, dtype))
    weights = [torch.randn(40, 96).to(dtype), int8.encode(torch.randn(40, 96))]
    spoilt = given.t.clone()
    spoilt[1, 5] = bad
    others = [row for row in range(rows) if row != 1]

    for library in everywhere():
        good = library.mixture(given, layer, LIMIT, x)
        found = library.mixture(given._replace(t=spoilt), layer, LIMIT, x)
        assert torch.equal(found[others], good[others])
        assert not found[1].isfinite().any()
        for weight in weights:
            good = library.linear(given.t, (weight,))
            found = library.linear(spoilt, (weight,))
            assert torch.equal(found[others], good[others])
            assert not found[1].isfinite().any()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rows", [1, 30])
def test_the_number_of_threads_does_not_change_a_bit(rows: int) -> None:
    given, x = routed(rows, 5, 3, 480, BF16), torch.randn(rows, 480).to(BF16)
    layer = layer_of(packed(5, 960, 480, BF16), packed(5, 480, 480, BF16))
    weights = [torch.randn(700, 480).to(BF16), int8.encode(torch.randn(700, 480))]

    def found(library: Library, count: int) -> list[torch.Tensor]:
        torch.set_num_threads(count)
        return [library.mixture(given, layer, LIMIT, x), *(library.linear(x, (w,)) for w in weights)]

    for library in everywhere():
        alone = found(library, 1)
        for count in (2, 3):
            assert all(map(torch.equal, found(library, count), alone))


@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_behind_the_end_of_a_tensor(rows: int, dtype: torch.dtype) -> None:
    """As where a mapped file ends with its last tensor; so the addresses are as odd as tensors' offsets."""

    def ended(experts: Experts) -> Experts:
        blocks, scales, bias = map(at_the_end, (experts.blocks, experts.scales, experts.bias))
        return Experts(blocks, scales, bias, None)

    given = routed(rows, 3, 2, 2880, dtype)
    given = Routed(at_the_end(given.t), given.ids, at_the_end(given.weights))
    x = at_the_end(torch.randn(rows, 2880).to(dtype))
    layer = layer_of(packed(3, 128, 2880, dtype), packed(3, 2880, 64, dtype))
    weights = [torch.randn(33, 2880).to(dtype), int8.encode(torch.randn(33, 2880))]
    odd, short = torch.randn(5, 90).to(dtype), torch.randn(rows, 90).to(dtype)

    for library in everywhere():
        found = library.mixture(given, layer_of(ended(layer.mlp1), ended(layer.mlp2)), LIMIT, x)
        assert torch.equal(found, library.mixture(given, layer, LIMIT, x))
        for weight in weights:
            assert torch.equal(library.linear(x, (at_the_end(weight),)), library.linear(x, (weight,)))
        for weight in (odd, int8.encode(odd)):
            found = library.linear(at_the_end(short), (at_the_end(weight),))
            assert torch.equal(found, library.linear(short, (weight,)))
        scale = torch.rand(90)
        found = library.norm(at_the_end(short), at_the_end(scale))
        assert torch.equal(found, library.norm(short, scale))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2880, 90, 7])
def test_norms_are_the_references(width: int, dtype: torch.dtype) -> None:
    x, scale = (torch.randn(40, width) * 30).to(dtype), torch.rand(width)
    x[3] = 0

    for library in everywhere():
        # In bf16 the last place may be rounded the other way.
        rtol = 1e-6 if dtype == FP32 else 2**-7
        torch.testing.assert_close(library.norm(x, scale), reference.rms_norm(x, scale), rtol=rtol, atol=1e-6)


def test_no_rows_are_a_batch_too() -> None:
    for library in everywhere():
        assert library.linear(torch.empty(0, 96), (torch.randn(5, 96),), wide=True).shape == (0, 5)
