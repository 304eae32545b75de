"""Dense weights as int8: groups of 32 along the last dimension share a scale, as in GGUF's Q8_0.

A row of K weights is 32 G signed bytes, G = ceil(K / 32), and behind them G scales in bf16, so that a row is
read in one run: u8 [..., 34 G]. The last group is filled up with zeros. A weight is its byte times the scale
of its group; the largest magnitude of a group becomes 127, or a little less where bf16 rounded the scale up.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

GROUP = 32
LARGEST = 127
CHUNK_VALUES = 1 << 22
"""Weights that are rounded at a time; beside them are copies in fp32."""


def row_bytes(k: int) -> int:
    """Bytes of a row of `k` weights."""
    return -(-k // GROUP) * (GROUP + 2)


def encode(weight: torch.Tensor) -> torch.Tensor:
    """Rounds [N, K] of any float dtype to u8 [N, 34 G]. Values must be finite."""
    n, k = weight.shape
    packed = torch.empty(n, row_bytes(k), dtype=torch.uint8, device=weight.device)
    step = max(1, CHUNK_VALUES // k)
    for at in range(0, n, step):
        _encode(weight[at : at + step], packed[at : at + step])
    return packed


def decode(packed: torch.Tensor, k: int, dtype: torch.dtype) -> torch.Tensor:
    """u8 [N, 34 G] -> dtype [N, K]."""
    n, groups = packed.shape[0], -(-k // GROUP)
    values = packed[:, : groups * GROUP].view(torch.int8).view(n, groups, GROUP).float()
    scales = packed[:, groups * GROUP :].contiguous().view(torch.bfloat16).float()
    return (values * scales[..., None]).flatten(1)[:, :k].to(dtype)


def _encode(weight: torch.Tensor, packed: torch.Tensor) -> None:
    n, k = weight.shape
    groups = -(-k // GROUP)
    values = pad(weight.float(), (0, groups * GROUP - k)).view(n, groups, GROUP)
    scales = (values.abs().amax(-1) / LARGEST).to(torch.bfloat16)
    # What was rounded down would not hold the largest value: one step up of the last place.
    bits = scales.view(torch.int16)
    bits += scales.float() * LARGEST < values.abs().amax(-1)
    inverse = torch.where(scales > 0, 1 / scales.float(), 0.0)
    rounded = (values * inverse[..., None]).round_().to(torch.int8)
    packed[:, : groups * GROUP] = rounded.view(n, -1).view(torch.uint8)
    packed[:, groups * GROUP :] = scales.view(torch.uint8)
