"""From the options that commands share to a checkpoint and an engine, with what is said before a load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from local_engine.errors import SetupError
from local_engine.scheduler import MAX_RUNNING, STEP_TOKENS, Limits

if TYPE_CHECKING:
    from local_engine.checkpoint import Checkpoint
    from local_engine.engine import Engine
    from local_engine.loading import Loading
    from local_engine.memory import Fit
    from local_engine.opening import Kernels

Command = Callable[..., None]

SMALL_MODEL_BYTES = 1 << 30

GPU_RUNNING = 64
"""Sequences at once on a GPU, unless somebody asks for another number: its bandwidth is for many."""
GPU_STEP_TOKENS = 2048
"""Rows of a step there, likewise: enough of a prompt that each expert's weights are read for many rows."""


@dataclass(frozen=True, slots=True)
class Running:
    """How to run a model, as the command line says it. None is what suits the device."""

    dtype: Literal["bf16", "fp32"]
    dense: Literal["int8"] | None
    device: str
    kernels: Kernels
    exact: bool
    max_context_tokens: int | None
    kv_gib: float | None
    step_tokens: int | None
    threads: int | None
    ignore_memory: bool
    max_running: int | None = 1

    def at_once(self, answers: int | None) -> Running:
        """The same for so many answers at once. Raises `click.UsageError` when a step cannot hold them, and
        `SetupError` for a device that is not there."""
        asked = replace(self, max_running=answers)
        running, rows = asked.defaults()
        if rows < running:
            raise click.UsageError(f"--step-tokens must be at least {running}: each answer takes one a step")
        return asked

    def defaults(self) -> tuple[int, int]:
        """How many sequences and rows a step may have."""
        gpu = device_of(self) == "cuda"
        running, rows = (GPU_RUNNING, GPU_STEP_TOKENS) if gpu else (MAX_RUNNING, STEP_TOKENS)
        return self.max_running or running, self.step_tokens or rows

    def limits(self) -> Limits:
        """The same as a scheduler takes it."""
        return Limits(*self.defaults())


def takes_running(command: Command) -> Command:
    """Adds the options that `serve`, `chat` and `bench` share, handed on as `running`."""
    options = (
        click.option(
            "--dtype",
            type=click.Choice(["bf16", "fp32"]),
            default="bf16",
            show_default=True,
            help="What weights are held and computed in; experts stay packed.",
        ),
        click.option(
            "--dense",
            type=click.Choice(["int8"]),
            help="Round attention's matrices and the unembedding: half the memory, faster on the CPU.",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Where to run; auto takes the GPU if there is one.",
        ),
        click.option(
            "--kernels",
            type=click.Choice(["compiled", "eager"]),
            default="compiled",
            show_default=True,
            help="The engine's own, made for the device, or plain torch, slow and easy to look into.",
        ),
        click.option(
            "--exact",
            is_flag=True,
            help="Answers that do not depend on what runs beside them, to the bit: fp32 on the CPU, slow.",
        ),
        click.option(
            "--max-context-tokens",
            type=click.IntRange(1),
            help="Prompt and answer together. Default: what the model was scaled for, or as much as fits.",
        ),
        click.option(
            "--kv-gib",
            type=click.FloatRange(0, min_open=True),
            help="Memory for keys and values. Default: enough for what may run, within half of what is free.",
        ),
        click.option(
            "--step-tokens",
            type=click.IntRange(1),
            help="Tokens computed in one step: more makes long prompts faster, and others wait longer. "
            f"Default: {STEP_TOKENS}, on a GPU {GPU_STEP_TOKENS}.",
        ),
        click.option(
            "--threads", type=click.IntRange(1), help="CPU threads; default: one for a small model."
        ),
        click.option("--ignore-memory", is_flag=True, help="Start even if the memory will not do."),
    )
    names = [field.name for field in fields(Running) if field.name != "max_running"]

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        running = Running(**{name: kwargs.pop(name) for name in names})
        command(*args, running=running, **kwargs)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def open_model(model: str) -> Checkpoint:
    """The checkpoint at a path, or behind a hub id. Raises `SetupError`."""
    from local_engine.checkpoint import open_checkpoint
    from local_engine.hub import resolve_model

    return open_checkpoint(resolve_model(model, note))


def demo_model() -> Path:
    """The demo model, made on first use."""
    from local_engine.hub import models_folder
    from local_engine.make import cached_preset

    folder, made = cached_preset(models_folder(), "demo")
    note(f"no `--model`: talking to the demo model, {'made now' if made else 'kept'} in {folder}")
    return folder


def check_speaks(checkpoint: Checkpoint) -> None:
    """Raises `SetupError` for a model without harmony's vocabulary."""
    from local_engine.harmony.tokens import VOCABULARY_SIZE

    if checkpoint.config.vocab_size != VOCABULARY_SIZE:
        raise SetupError(
            f"`vocab_size` is `{checkpoint.config.vocab_size}`: only a model with all {VOCABULARY_SIZE} "
            "tokens can speak harmony; make one with `--preset demo`"
        )


def device_of(running: Running) -> Literal["cpu", "cuda"]:
    """The device that `auto` stands for here. Raises `SetupError` for one that is not there."""
    import torch

    there = torch.cuda.is_available()
    match running.device:
        case "cuda" if not there:
            raise SetupError("there is no CUDA device here: say `--device cpu`")
        case "cuda":
            return "cuda"
        case "auto" if there and not running.exact:
            return "cuda"
    return "cpu"


def fit_of(checkpoint: Checkpoint, running: Running) -> Fit:
    """How the model lies in memory; says what is worth saying about it. Raises `SetupError`."""
    from local_engine.machine import available
    from local_engine.memory import fit
    from local_engine.opening import DTYPES, EngineOptions, ops_for
    from local_engine.ops import cpu, exact

    longest = checkpoint.config.max_context_tokens
    if (running.max_context_tokens or 0) > longest:
        raise SetupError(
            f"this model was scaled for a context of {longest} tokens, but {running.max_context_tokens} are "
            "asked for: ask for fewer"
        )
    device = device_of(running)
    ops = ops_for(
        EngineOptions(
            dtype=running.dtype,
            dense=running.dense,
            device=device,
            exact=running.exact,
            kernels=running.kernels,
        )
    )
    limits = running.limits()
    found = fit(
        checkpoint.config,
        DTYPES[running.dtype],
        device,
        available(device),
        max_running=limits.max_running,
        step_tokens=limits.step_tokens,
        max_context_tokens=running.max_context_tokens,
        kv_bytes=None if running.kv_gib is None else int(running.kv_gib * (1 << 30)),
        dense_experts=bool(checkpoint.dense),
        dense_int8=running.dense == "int8",
        eager=ops.attend in (cpu.attend, exact.attend),
        ignore=running.ignore_memory,
    )
    for text in found.notes:
        note(f"note: {text}")
    return found


def loading(checkpoint: Checkpoint) -> Loading:
    """The progress of loading a checkpoint, on the standard error."""
    from rich.console import Console

    from local_engine.loading import Loading

    return Loading(checkpoint.nbytes, Console(stderr=True))


def engine_over(checkpoint: Checkpoint, running: Running, *, max_waiting: int = 0) -> Engine:
    """The engine over a checkpoint, loaded and not yet started."""
    import torch

    from local_engine.opening import EngineOptions, open_engine

    if (threads := running.threads or default_threads(checkpoint)) is not None:
        torch.set_num_threads(threads)
    found, limits = fit_of(checkpoint, running), running.limits()
    options = EngineOptions(
        dtype=running.dtype,
        dense=running.dense,
        device=device_of(running),
        exact=running.exact,
        kernels=running.kernels,
        max_running=limits.max_running,
        max_waiting=max_waiting,
        max_context_tokens=found.max_context_tokens,
        kv_tokens=found.kv_tokens,
        step_tokens=limits.step_tokens,
    )
    with loading(checkpoint) as progress:
        return open_engine(checkpoint, options, progress)


def default_threads(checkpoint: Checkpoint) -> int | None:
    """One for a small model, whose operations are too short to share; None leaves the choice to torch."""
    return 1 if checkpoint.nbytes < SMALL_MODEL_BYTES else None


def note(text: str) -> None:
    """A line for the user that is not the command's output."""
    click.echo(text, err=True)
