"""Stages 4 and 7 of the GPU bench: each operation by itself, and other ways to launch it.

An operation is launched once for each of several layers, whose weights together are larger than a cache, so
that each reads its weights from memory, as in a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.drawn import drawn_model
from bench.gpu_rows import Row
from bench.gpu_setting import Decode, Setting, decoding
from bench.roofline import head_bytes, layer_bytes
from local_engine.model import Layer
from local_engine.ops import ref
from local_engine.ops.triton import OPS
from local_engine.ops.triton.configs import Config

LAYERS = 8
TUNING_S = 28.0
"""How long other configurations are tried: what is not tried by then is left for another run."""

TABLES = (
    "experts.UP",
    "experts.DOWN",
    "qkv.FEW",
    "out.FEW",
    "head.FEW",
    "attention.FULL",
    "qkv.MANY",
    "out.MANY",
    "head.MANY",
)
"""Launch configurations that are tried in other forms, the most expensive kernels first."""


@dataclass(frozen=True, slots=True)
class Timed:
    """An operation over some layers: what launches it once for each, and the bytes that each reads."""

    name: str
    launch: Callable[[], object]
    times: int
    bytes: float


def operations(step: Decode, context: int) -> Iterator[Timed]:
    """Every operation of a decode step, with inputs of its own."""
    model, batch = step.model, step.batch
    config, rows = model.config, len(batch.tokens)
    x = torch.randn(rows, config.hidden_size, device=model.device).to(model.dtype)
    shape = (rows, config.num_attention_heads, config.head_dim)
    q = torch.randn(shape, device=model.device).to(model.dtype)
    top, limit = config.experts_per_token, config.swiglu_limit
    layers = list(zip(model.layers, step.kv.layers, strict=True))
    touched = [ref.OPS.route(x, layer, top).ids.unique().numel() for layer in model.layers]
    read = layer_bytes(config, rows, context, sum(touched) / len(touched))

    def each(run: Callable[[int, Layer, Any], object], only: Sequence[int] = ()) -> Callable[[], object]:
        chosen = only or range(len(layers))
        return lambda: [run(n, *layers[n]) for n in chosen]

    full = [n for n in range(len(layers)) if config.window_of(n) is None]
    windows = [n for n in range(len(layers)) if config.window_of(n) is not None]

    def attend(n: int, layer: Layer, pool: Any) -> object:
        window = config.window_of(n)
        group = batch.full if window is None else batch.window
        return OPS.attend(q, pool, group, batch, layer.sinks, window)

    def qkv(n: int, layer: Layer, pool: Any) -> object:
        group = batch.full if config.window_of(n) is None else batch.window
        return OPS.qkv(x, layer, model.rope, batch.positions, pool, group.slots)

    heard = [attend(n, *layers[n]) for n in range(len(layers))]
    sent = [OPS.route(x, layer, top) for layer in model.layers]
    every = len(layers)
    yield Timed("qkv", each(qkv), every, read.qkv)
    yield Timed("attend, everything", each(attend, full), len(full), read.attend)
    yield Timed("attend, a window", each(attend, windows), len(windows), read.attend_window)
    yield Timed("out", each(lambda n, layer, pool: OPS.out(heard[n], layer, x)), every, read.out)
    yield Timed("route", each(lambda n, layer, pool: OPS.route(x, layer, top)), every, read.route)
    yield Timed(
        "experts", each(lambda n, layer, pool: OPS.experts(sent[n], layer, limit, x)), every, read.experts
    )
    yield Timed("head", lambda: OPS.head(x, model, batch.rows), 1, head_bytes(config))
    logits = OPS.head(x, model, batch.rows)
    yield Timed("sample", lambda: OPS.sample(logits, batch.draw), 1, logits.nbytes)


def kernels(setting: Setting, read: float | None) -> Iterator[Row]:
    """Stage 4."""
    long = setting.size(32_768, 200)
    config = setting.model("20b", LAYERS)
    model = drawn_model(config, setting.dtype, setting.device, positions=long)
    for rows in (1, 8, 64)[: setting.size(3, 2)]:
        for context in (setting.size(1024, 40), long):
            step = decoding(setting, model, rows, context)
            for one in operations(step, context):
                if context == long and not one.name.startswith(("attend", "out")):
                    continue  # the same at any context
                seconds = setting.seconds(setting.recorded(one.launch), setting.size(10, 1)) / one.times
                share = None if read is None else one.bytes / seconds / read
                values = {
                    "µs": seconds * 1e6,
                    "GB/s": one.bytes / seconds / 1e9,
                    "of reading": "not measured" if share is None else share,
                }
                yield Row(f"{one.name}, {rows} rows, context {context}", values)


def variants(config: Config) -> Iterator[Config]:
    """Other warps, stages, and each size halved and doubled; not BN, on which both projections of the experts
    must agree."""
    for warps, stages in product((2, 4, 8), (2, 3, 4, 5)):
        yield replace(config, warps=warps, stages=stages)
    for name, size in config.sizes.items():
        for other in (size // 2, size * 2):
            if other > 0 and name != "BN":
                yield replace(config, sizes={**config.sizes, name: other})


def tune(setting: Setting, folder: Path) -> Iterator[Row]:
    """Stage 7: which other configuration would be faster, and a trace of one step. What is found is a lead:
    the tables are changed by hand, and the checks run again."""
    end_s = time.monotonic() + TUNING_S
    model = drawn_model(
        setting.model("20b", LAYERS), setting.dtype, setting.device, positions=setting.size(4096, 256)
    )
    yield from trace(setting, decoding(setting, model, 1, setting.size(1024, 40)), folder)
    for rows, table in product((1, 8, 64)[: setting.size(3, 1)], TABLES[: setting.size(len(TABLES), 1)]):
        module_name, _, name = table.partition(".")
        module = import_module(f"local_engine.ops.triton.{module_name}")
        configs: tuple[Config, ...] = getattr(module, name)
        used = next((config for config in configs if rows <= config.rows), None)
        if used is None or (name == "MANY" and rows < 8):
            continue
        if not setting.tiny and time.monotonic() > end_s:
            yield Row(f"{table}, {rows} rows", {"tried": 0})
            continue
        op = {"attention": "attend, everything"}.get(module_name, module_name)
        step = decoding(setting, model, rows, setting.size(1024, 40))
        taken: dict[str, float] = {}
        for config in (used, *list(variants(used))[: setting.size(100, 2)]):
            if taken and not setting.tiny and time.monotonic() > end_s:
                break
            setattr(module, name, tuple(config if one is used else one for one in configs))
            try:
                (timed,) = [one for one in operations(step, setting.size(1024, 40)) if one.name == op]
                taken[_named(config)] = setting.seconds(setting.recorded(timed.launch), setting.size(5, 1))
                taken[_named(config)] /= timed.times
            except Exception as error:  # a size that does not compile or does not fit is no candidate
                taken[f"{_named(config)}: {type(error).__name__}"] = float("inf")
            finally:
                setattr(module, name, configs)
        best = min(taken, key=taken.__getitem__)
        now = taken[_named(used)]
        yield Row(
            f"{table}, {rows} rows",
            {"µs": now * 1e6, "best µs": taken[best] * 1e6, "with": best, "tried": len(taken)},
        )


def trace(setting: Setting, step: Decode, folder: Path) -> Iterator[Row]:
    """A profile of one step, kernel by kernel, as a file for a browser's tracing page."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    launch = setting.recorded(lambda: step.step(OPS))
    launch()
    with profile(activities=activities) as found:
        launch()
        setting.settle()
    path = folder / "gpu-trace.json"
    found.export_chrome_trace(str(path))
    yield Row("trace of one step", {"in": path.name, "kB": path.stat().st_size // 1000})


def _named(config: Config) -> str:
    sizes = " ".join(f"{name}={size}" for name, size in config.sizes.items())
    return f"{sizes} warps={config.warps} stages={config.stages}"
