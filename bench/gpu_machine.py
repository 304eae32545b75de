"""Stage 1 of the GPU bench: what the machine is, how fast it reads, and what a launch costs.

And the only kernels of the bench's own: one that reads, and one that does nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from bench.gpu_rows import Row
from bench.gpu_setting import Setting

READ = 65536
"""Bytes that one program reads."""


@triton.jit
def read_all(source, sums, SIZE: tl.constexpr):
    """Program n adds up SIZE words of its own."""
    n = tl.program_id(0).to(tl.int64)
    total = tl.zeros([1024], tl.int32)
    for at in range(0, SIZE, 1024):
        total += tl.load(source + n * SIZE + at + tl.arange(0, 1024))
    tl.store(sums + n, tl.sum(total, 0))


@triton.jit
def nothing(there):
    """Writes one word, so that the launch is one."""
    tl.store(there, 0)


def environment(setting: Setting) -> Iterator[Row]:
    """What the numbers are of."""
    yield Row("torch", {"is": torch.__version__})
    yield Row("triton", {"is": triton.__version__})
    yield Row("python", {"is": platform.python_version()})
    if setting.device.type != "cuda":
        return
    card = torch.cuda.get_device_properties(setting.device)
    yield Row("card", {"is": card.name})
    yield Row("CUDA of torch", {"is": str(torch.version.cuda)})
    yield Row("compute capability", {"is": f"{card.major}.{card.minor}"})
    yield Row("memory", {"GB": round(card.total_memory / 1e9, 1)})
    yield Row("multiprocessors", {"is": card.multi_processor_count})


def bandwidth(setting: Setting) -> dict[str, float]:
    """Bytes a second by method. The most of them is what counts."""
    words = setting.size(1 << 30, 1 << 16) // 4 * 4  # 4 GiB of device memory: far more than a cache
    source = torch.randint(0, 100, (words,), dtype=torch.int32, device=setting.device)
    target = torch.empty_like(source)
    programs = words * 4 // READ
    sums = torch.empty(programs, dtype=torch.int32, device=setting.device)

    def read() -> None:
        read_all[(programs,)](source, sums, SIZE=READ // 4, num_warps=8)

    size = source.numel() * 4
    times = setting.size(10, 1)
    found = {
        "a kernel that only reads": size / setting.seconds(read, times),
        "torch's maximum": size / setting.seconds(lambda: source.max(), times),
        "a copy, read and written": 2 * size / setting.seconds(lambda: target.copy_(source), times),
    }
    assert torch.equal(sums.sum(), source.sum(dtype=torch.int64)), "the kernel that reads did not read it all"
    return found


def launch_cost(setting: Setting) -> tuple[float, float]:
    """Seconds: a graph of one kernel that does nothing, and each further one in it."""
    there = torch.zeros(1, dtype=torch.int32, device=setting.device)

    def several(count: int) -> Any:
        def run() -> None:
            for _ in range(count):
                nothing[(1,)](there, num_warps=1)

        return setting.recorded(run)

    few, many = 1, setting.size(201, 3)
    one, all_ = (setting.seconds(several(count), setting.size(50, 1)) for count in (few, many))
    return one, (all_ - one) / (many - few)


def machine(setting: Setting) -> Iterator[Row]:
    """Stage 1."""
    yield from environment(setting)
    for method, found in bandwidth(setting).items():
        yield Row(f"reading by {method}", {"GB/s": found / 1e9})
    first, further = launch_cost(setting)
    yield Row("an empty graph of one launch", {"µs": first * 1e6})
    yield Row("each further launch in it", {"µs": further * 1e6})
