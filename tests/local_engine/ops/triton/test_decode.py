"""Every byte under every scale is what the engine's own decoder says, to the bit, by either body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from local_engine import mxfp4
from local_engine.ops.triton.decode import PACKED, SHIFTED, every_value


def permuted(word: Any, selectors: int) -> Any:
    """PTX's `prmt` of a register and zero, for selectors below 4."""
    chosen = [(selectors >> 4 * n) & 7 for n in range(4)]
    return (
        np.stack([word.view(np.uint8).reshape(-1, 4)[:, n] for n in chosen], 1).copy().view(np.uint32)[:, 0]
    )


INSTRUCTIONS: dict[str, Callable[[Any, int], Any]] = {
    "prmt.b32": permuted,
    "shr.u32": lambda word, bits: word >> np.uint32(bits),
    "and.b32": lambda word, mask: word & np.uint32(mask),
    "mul.lo.u32": lambda word, by: (word.astype(np.uint64) * by).astype(np.uint32),
}


def run(assembly: str, words: Any) -> list[Any]:
    """What the instructions of the packed body leave in $0 to $3, with $4 = words u32."""
    registers = {"$4": words}
    for line in assembly.replace(";", "").splitlines():
        name, *operands = line.replace(",", " ").split() or ["}"]
        if name in "{}" or name.startswith(".reg"):
            continue
        to, source, last = operands[0], registers[operands[1]], int(operands[-1], 0)
        registers[to] = INSTRUCTIONS[name](source, last)
    return [registers[f"${n}"] for n in range(4)]


@pytest.mark.filterwarnings("ignore:.*encountered in multiply:RuntimeWarning")  # 6 x 2^127, and 0 x inf
def test_every_byte_under_every_scale_is_decoded_exactly() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    blocks = every.view(16, 16).expand(256, 16, 16)
    scales = every[:, None].expand(256, 16)

    found = every_value("cpu", torch.float32)

    assert torch.equal(found.view(torch.int32), mxfp4.decode(blocks, scales, torch.float32).view(torch.int32))


def test_the_packed_body_puts_the_same_values_of_every_byte_in_the_order_of_the_bytes() -> None:
    draw = torch.Generator().manual_seed(0)
    packed = torch.stack([torch.randperm(256, generator=draw) for _ in range(4)], 1).to(torch.uint8)
    ones = torch.full((64,), 127, dtype=torch.uint8)
    values = mxfp4.decode(packed.flatten().view(-1, 16), ones, torch.float32)
    low, high = values.view(256, 4, 2).unbind(-1)

    found = run(PACKED.value, packed.numpy().view(np.uint32)[:, 0])

    halves = [torch.from_numpy(word.view(np.int16).copy()).view(256, 2) for word in found]
    scaled = [half.view(torch.bfloat16).float() * SHIFTED.value for half in halves]
    assert torch.equal(torch.cat(scaled[:2], 1), low)
    assert torch.equal(torch.cat(scaled[2:], 1), high)
