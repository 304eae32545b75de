"""MXFP4 bytes become exactly the numbers that the format says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from local_engine.mxfp4 import MAGNITUDES, decode


def by_hand(group: bytes, scale: int) -> list[float]:
    """One group of 32, decoded by arithmetic on single nibbles."""
    codes = [nibble for byte in group for nibble in (byte & 15, byte >> 4)]
    return [(-1.0 if code & 8 else 1.0) * MAGNITUDES[code & 7] * 2.0 ** (scale - 127) for code in codes]


def test_the_low_nibble_comes_first() -> None:
    blocks = torch.zeros(1, 16, dtype=torch.uint8)
    blocks[0, 0] = 0x72  # low nibble 2 is 1.0, high nibble 7 is 6.0
    blocks[0, 15] = 0x9F  # low nibble 15 is -6.0, high nibble 9 is -0.5

    values = decode(blocks, torch.tensor([128], dtype=torch.uint8), torch.float32)

    assert values.tolist() == [2.0, 12.0] + [0.0] * 28 + [-12.0, -1.0]


@settings(max_examples=60, deadline=None)
@given(group=st.binary(min_size=16, max_size=16), scale=st.integers(0, 254))
def test_every_code_and_scale_is_exact_in_both_dtypes(group: bytes, scale: int) -> None:
    blocks = torch.tensor([list(group)], dtype=torch.uint8)
    scales = torch.tensor([scale], dtype=torch.uint8)
    # Beyond fp32's range only infinity is left, which no checkpoint has.
    expected = np.array(by_hand(group, scale)).astype(np.float32) if scale < 252 else None

    for dtype in (torch.float32, torch.bfloat16):
        values = decode(blocks, scales, dtype)
        assert values.dtype == dtype
        if expected is not None:
            assert np.array_equal(values.float().numpy(), expected)


def test_a_whole_tensor_agrees_with_transformers() -> None:
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (3, 10, 2, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (3, 10, 2), dtype=torch.uint8, generator=generator)

    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)

    assert torch.equal(decode(blocks, scales, torch.float32), theirs.transpose(1, 2))


@pytest.mark.parametrize(
    ("blocks", "scales"),
    [
        (torch.zeros(2, 15, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8)),
        (torch.zeros(2, 16, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8)),
        (torch.zeros(2, 16), torch.zeros(2, dtype=torch.uint8)),
    ],
    ids=["a short group", "a scale too many", "floats"],
)
def test_tensors_that_do_not_belong_together_are_refused(blocks: torch.Tensor, scales: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="blocks"):
        decode(blocks, scales, torch.float32)
