"""The host's kernels for tests: built once, on every instruction set that this processor has."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

import torch

from local_engine.model import Experts
from local_engine.ops import Ops, compiled, cpu, exact, native, ref

PROT_NONE = 0


@cache
def built() -> ctypes.CDLL:
    """The kernels, in the user's cache as for everybody."""
    kernels = compiled.load()
    assert kernels is not None, "the log says why they cannot be built"
    return kernels


@cache
def everywhere() -> list[native.Library]:
    """One for each instruction set, the portable one first."""
    return [native.Library(built(), level) for level in range(built().best_set() + 1)]


def ops_named(name: str) -> Ops:
    """`ref`, `cpu`, `exact` or `native`."""
    if name == "native":
        return native.ops(everywhere()[-1])
    return {"ref": ref.OPS, "cpu": cpu.OPS, "exact": exact.OPS}[name]


def packed(
    experts: int, rows: int, k: int, dtype: torch.dtype, scales: tuple[int, int] = (118, 124)
) -> Experts:
    """Random packed experts [experts, rows, k]."""
    groups = k // 32
    return Experts(
        torch.randint(0, 256, (experts, rows, groups, 16), dtype=torch.uint8),
        torch.randint(*scales, (experts, rows, groups), dtype=torch.uint8),
        torch.randn(experts, rows).to(dtype),
        None,
    )


def at_the_end(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose last byte is the last that may be read: behind it is a page that nobody may touch."""
    size = max(tensor.nbytes, 1)
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + mmap.PAGESIZE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    refused = ctypes.CDLL(None, use_errno=True).mprotect(
        ctypes.c_void_p(whole.data_ptr() + room), ctypes.c_size_t(mmap.PAGESIZE), PROT_NONE
    )
    assert not refused
    copy = whole[room - tensor.nbytes : room].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
