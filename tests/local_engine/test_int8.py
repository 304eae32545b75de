"""Dense weights as int8: the nearest bytes, under the scales that their groups need."""

from __future__ import annotations

import pytest
import torch

from local_engine.int8 import CHUNK_VALUES, decode, encode, row_bytes


@pytest.mark.parametrize("shape", [(1, 32), (5, 2880), (3, 90), (4, 7)], ids=str)
def test_each_weight_is_within_half_a_step_of_its_group(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    n, k = shape
    weight = (torch.randn(n, k) * torch.logspace(-6, 3, n)[:, None]).to(torch.bfloat16)

    stored = encode(weight)
    found = decode(stored, k, torch.float32)

    assert (stored.dtype, stored.shape) == (torch.uint8, (n, row_bytes(k)))
    for at in range(0, k, 32):
        group = weight[:, at : at + 32].float()
        step = group.abs().amax(-1, keepdim=True) / 127
        # A scale in bf16 is up to 2^-7 above what the group needs.
        assert ((found[:, at : at + 32] - group).abs() <= step * 0.5 * (1 + 2**-7)).all()


def test_a_row_is_its_bytes_and_then_its_scales() -> None:
    weight = torch.zeros(1, 64)
    weight[0, 0], weight[0, 1], weight[0, 33] = 127.0, -3.0, 254.0

    stored = encode(weight)[0]

    assert stored[:64].view(torch.int8).tolist() == [127, -3, *[0] * 31, 127, *[0] * 30]
    assert stored[64:].view(torch.bfloat16).tolist() == [1.0, 2.0]


def test_zeros_and_what_fills_up_the_last_group_are_zeros() -> None:
    stored = encode(torch.zeros(2, 40))

    assert not stored.any()
    assert torch.equal(decode(stored, 40, torch.bfloat16), torch.zeros(2, 40, dtype=torch.bfloat16))


def test_a_large_matrix_is_rounded_some_rows_at_a_time_with_the_same_result() -> None:
    k = 1 << 17
    torch.manual_seed(1)
    weight = torch.randn(CHUNK_VALUES // k + 3, k, dtype=torch.bfloat16)

    stored = encode(weight)

    assert torch.equal(stored[-1:], encode(weight[-1:]))
    assert torch.equal(stored[:1], encode(weight[:1]))
