"""MXFP4: the only place that knows how nibbles are ordered.

A group of 32 values along the last (reduction) dimension is 16 bytes of 4-bit codes and one byte of scale.
Byte b of a group holds value 2b in its low nibble and 2b+1 in its high nibble. A code is sign (bit 3) and
magnitude (bits 0-2, the E2M1 values below); a value is code * 2^(scale - 127). OCP Microscaling Formats
(MX) v1.0, sections 5.3.3 (FP4) and 5.4.1 (E8M0).
"""

from __future__ import annotations

import torch

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the three magnitude bits stand for."""

GROUP_BYTES = 16
SCALE_BIAS = 127


def decode(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Unpacks u8 blocks [..., G, 16] and u8 scales [..., G] into dtype [..., G * 32].

    Exact in fp32, and in bf16 too: a code needs two bits of mantissa. Raises `ValueError` on other shapes or
    types.
    """
    if blocks.dtype != torch.uint8 or scales.dtype != torch.uint8:
        raise ValueError(f"blocks and scales must be uint8, not {blocks.dtype} and {scales.dtype}")
    if blocks.shape[-1] != GROUP_BYTES or blocks.shape[:-1] != scales.shape:
        raise ValueError(
            f"blocks {tuple(blocks.shape)} and scales {tuple(scales.shape)} do not belong together"
        )
    # Both values of a byte in one word: a look-up a byte, where one a value costs ten times as much.
    word = {2: torch.int32, 4: torch.int64}[dtype.itemsize]
    table = _pairs(dtype, blocks.device).view(word).flatten()
    values = table.index_select(0, blocks.reshape(-1).to(torch.int32)).view(dtype)
    factors = _factors(dtype, blocks.device)[scales.to(torch.int32)]
    return values.view(*scales.shape, 2 * GROUP_BYTES).mul_(factors.unsqueeze(-1)).flatten(-2)


def _pairs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[256, 2]: the two values that each byte stands for, low nibble first."""
    values = [*MAGNITUDES, *(-value for value in MAGNITUDES)]
    # One by one and on the device: a table from the host would have to be waited for.
    signed = torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])
    byte = torch.arange(256, device=device)
    return torch.stack([signed[byte & 0xF], signed[byte >> 4]], dim=-1)


def _factors(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[256]: what each scale stands for. Powers of two, so products with them are exact."""
    exponents = torch.arange(256, device=device) - SCALE_BIAS
    return torch.ldexp(torch.ones(256, device=device), exponents).to(dtype)
