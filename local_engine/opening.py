"""From a checkpoint to an engine that is ready to start: dtype, operations, sizes of the pools."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import torch

from local_engine.buffers import Buffers, Sizes
from local_engine.checkpoint import Checkpoint
from local_engine.config import ModelConfig
from local_engine.engine import Engine
from local_engine.errors import SetupError
from local_engine.graphs import CudaCapture, Graphs, compile_prompts, sizes_up_to
from local_engine.kv import BLOCK_TOKENS, BlockTables
from local_engine.memory import window_blocks
from local_engine.model import Progress, load_model, new_kv
from local_engine.ops import Ops, compiled, cpu, exact, native
from local_engine.runner import ModelRunner
from local_engine.scheduler import (
    MAX_RUNNING,
    MAX_WAITING,
    STEP_TOKENS,
    Limits,
    Scheduler,
    blocks_needed,
)

Kernels = Literal["compiled", "eager"]

LEAST_CAPABILITY = (9, 0)
"""Of a GPU that runs the kernels: Hopper, whose bf16 pairs they multiply and whose launches they chain."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model.

    `exact` gives every row the same bits whatever runs beside it (fp32 on the CPU, slow). `kv_tokens` is how
    many positions the full group holds, None for what `max_running` sequences of `max_context_tokens` need.
    `step_tokens` bounds the rows of a step, and so how long a prompt's chunk keeps the others waiting.
    `overlap` launches a step before the last one's tokens are known, None where the device gains by it.
    `kernels` are those made for the device, Triton's on a GPU and C++ on the host, or plain torch operations,
    which are slow and easier to look into. `dense` rounds the matrices of attention and the unembedding to
    int8, None leaves them in `dtype`.
    """

    dtype: Literal["fp32", "bf16"] = "bf16"
    device: str = "cpu"
    exact: bool = False
    max_running: int = MAX_RUNNING
    max_waiting: int = MAX_WAITING
    max_context_tokens: int | None = None
    kv_tokens: int | None = None
    step_tokens: int = STEP_TOKENS
    overlap: bool | None = None
    kernels: Kernels = "compiled"
    dense: Literal["int8"] | None = None


def open_engine(checkpoint: Checkpoint, options: EngineOptions, progress: Progress | None = None) -> Engine:
    """Loads the weights and makes the engine, not yet started. Raises `SetupError`."""
    config, ops = checkpoint.config, ops_for(options)
    longest = min(config.max_context_tokens, options.max_context_tokens or config.max_context_tokens)
    limits = Limits(options.max_running, options.step_tokens)
    full, window = pool_blocks(options, config, longest)
    device = torch.device(options.device)
    ops = ops_for(options)
    model = load_model(
        checkpoint,
        DTYPES[options.dtype],
        device,
        max_context_tokens=longest,
        dense_int8=options.dense == "int8",
        progress=progress,
    )
    # Block 0 of each pool is scratch, and nobody's.
    kv = new_kv(model, full + 1, window + 1)
    buffers = Buffers(Sizes(limits, longest, config.sliding_window, config.vocab_size), device)
    overlaps = device.type != "cpu" if options.overlap is None else options.overlap
    graphs = None
    if device.type == "cuda" and options.kernels == "compiled":
        compile_prompts(model, kv, ops, buffers, limits.step_tokens)
        graphs = Graphs(model, kv, ops, buffers, CudaCapture(), sizes_up_to(limits.max_running))
    runner = ModelRunner(model, kv, ops, buffers, overlaps=overlaps, graphs=graphs)
    scheduler = Scheduler(BlockTables(full, window, config.sliding_window), limits)
    return Engine(runner, scheduler, max_context_tokens=longest, max_waiting=options.max_waiting)


def ops_for(options: EngineOptions) -> Ops:
    """The operations for a device, built first where they are compiled. Raises `SetupError` for what is not
    to be had on it."""
    device = torch.device(options.device)
    if options.exact and (device.type != "cpu" or options.dtype != "fp32"):
        raise SetupError("exact arithmetic is there on the CPU in fp32 only: say `--device cpu --dtype fp32`")
    if options.dense is not None and (options.exact or device.type != "cpu"):
        raise SetupError("int8 is there on the CPU, and not for exact arithmetic: leave `--dense` out")
    if options.exact:
        return exact.OPS
    if options.kernels == "compiled" and device.type == "cuda":
        return triton_ops(device)
    kernels = compiled.load() if options.kernels == "compiled" and device.type == "cpu" else None
    if kernels is not None:
        return native.ops(native.Library(kernels))
    if options.dense is not None:
        raise SetupError(f"int8 needs the compiled kernels: {compiled.INSTALL}, or leave `--dense` out")
    # A device without operations of its own takes the eager ones: those of `ref` wait for nothing, but gather
    # whole contexts for every row of a prompt.
    return cpu.OPS


def triton_ops(device: torch.device) -> Ops:
    """The kernels for a GPU. Raises `SetupError` when it or triton will not do."""
    otherwise = "say `--kernels eager` for plain torch operations, which are slow, or `--device cpu`"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        least, found = (".".join(map(str, version)) for version in (LEAST_CAPABILITY, capability))
        name = torch.cuda.get_device_name(device)
        raise SetupError(
            f"the kernels need a GPU of compute capability {least} or later, {name} has {found}: {otherwise}"
        )
    try:
        ops: Ops = import_module("local_engine.ops.triton").OPS
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        raise SetupError(f"triton is not installed: install `triton>=3.6`, or {otherwise}") from None
    return ops


def pool_blocks(options: EngineOptions, config: ModelConfig, longest: int) -> tuple[int, int]:
    """Blocks (full, window) of the pools. Raises `SetupError` when not even one sequence fits."""
    least, _ = blocks_needed(longest, options.step_tokens, config.sliding_window)
    asked = options.kv_tokens
    full = options.max_running * least if asked is None else -(-asked // BLOCK_TOKENS)
    if full < least:
        raise SetupError(
            f"the cache holds {full * BLOCK_TOKENS} tokens, but one sequence of {longest} needs "
            f"{least * BLOCK_TOKENS}: allow it more, or lower `--max-context-tokens`"
        )
    return full, window_blocks(config, full, options.max_running, longest, options.step_tokens)
