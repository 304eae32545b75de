"""Stage 2 of the GPU bench: every kernel against plain torch in fp32, at the released models' shapes.

fp32 kernels must agree to rounding. Those in bf16 are compared with the same numbers computed in fp32, so
what is left is their own rounding: a few thousandths. A wrong kernel is off by tenths and more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from bench.drawn import Drawing, drawn_model, in_fp32
from bench.gpu_rows import Row
from bench.gpu_setting import Decode, Setting, decoding, prompting
from local_engine import mxfp4
from local_engine.batch import Batch, Group, LayerKV
from local_engine.kv import BLOCK_TOKENS
from local_engine.model import Rope
from local_engine.ops import ref
from local_engine.ops.triton import OPS
from local_engine.ops.triton.decode import every_value
from local_engine.reference import rms_norm

BOUNDS = {torch.float32: (2e-5, 1e-3), torch.bfloat16: (2e-2, 0.15)}
"""Most of ‖ours - reference‖ / ‖reference‖, and of the largest difference in standard deviations."""

DECODES = (1, 2, 5, 8, 16, 33, 64)
PROMPTS = (17, 256)
MARGIN = 0.1
"""Between the last expert chosen and the next: a closer choice may fall either way when it is rounded."""

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def verdict(what: str, ours: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> Row:
    """How far apart two results are, and whether that is too far. NaN always is."""
    apart = ours.float() - want.float()
    error = float(apart.norm() / want.float().norm())
    largest = float(apart.abs().max() / want.float().std())
    most, most_anywhere = BOUNDS[dtype]
    good = error <= most and largest <= most_anywhere
    return Row(what, {"relative": error, "largest": largest}, failed=not good)


def decoders(setting: Setting) -> Iterator[Row]:
    """Both ways to decode MXFP4, every byte under every scale: exact, or wrong."""
    every = torch.arange(256, dtype=torch.uint8)
    blocks = every.view(1, 16, 16).expand(256, -1, -1)
    want = mxfp4.decode(blocks, every[:, None].expand(-1, 16), torch.float32)
    for dtype in (torch.float32,) if setting.tiny else (torch.float32, torch.bfloat16):
        found = every_value(setting.device, dtype).cpu()
        same = torch.eq(found, want) | (found.isnan() & want.isnan())
        wrong = int((~same).sum())
        yield Row(f"256 bytes under 256 scales, {dtype}", {"wrong": wrong}, failed=wrong > 0)


def operation(setting: Setting, op: str, dtype: torch.dtype) -> Iterator[Row]:
    """One operation at all numbers of rows."""
    model = drawn_model(setting.model("20b", 2), dtype, setting.device, positions=setting.size(4096, 256))
    check: Callable[[Decode, str], Iterator[Row]] = {
        "qkv": qkv, "attention": attention, "experts": experts, "head": head
    }[op]  # fmt: skip
    named = str(dtype).removeprefix("torch.")
    for rows in DECODES[:4] if setting.tiny else DECODES:
        yield from check(
            decoding(setting, model, rows, setting.size(1003, 75)), f"{op}, {rows} rows, {named}"
        )
    if op != "head":
        for rows in PROMPTS[:1] if setting.tiny else PROMPTS:
            yield from check(
                prompting(setting, model, rows, setting.size(1003, 35)), f"{op}, a prompt of {rows}, {named}"
            )


def qkv(step: Decode, what: str) -> Iterator[Row]:
    """Queries, and the keys and values where they were written."""
    model, batch, dtype = step.model, step.batch, step.model.dtype
    x = _rows(step)
    layer, pool, slots = model.layers[0], step.kv.layers[0], batch.window.slots
    exact = _pool_in_fp32(pool)
    rope = Rope(model.rope.cos.float(), model.rope.sin.float())
    q = OPS.qkv(x, layer, model.rope, batch.positions, pool, slots)
    want = ref.OPS.qkv(x.float(), in_fp32(layer), rope, batch.positions, exact, slots)
    yield verdict(f"{what}: queries", q, want, dtype)
    for name, ours, theirs in (("keys", pool.keys, exact.keys), ("values", pool.values, exact.values)):
        yield verdict(f"{what}: {name}", ours.flatten(0, 1)[slots], theirs.flatten(0, 1)[slots], dtype)


def attention(step: Decode, what: str) -> Iterator[Row]:
    """Attention and its output projection, with a window and without."""
    model, dtype = step.model, step.model.dtype
    x, config = _rows(step), model.config
    q = torch.randn(len(x), config.num_attention_heads, config.head_dim, device=x.device).to(dtype)
    for n, window in ((0, config.sliding_window), (1, None)):
        layer, pool = model.layers[n], step.kv.layers[n]
        group = step.batch.full if window is None else step.batch.window
        ours = OPS.out(OPS.attend(q, pool, group, step.batch, layer.sinks, window), layer, x)
        exact = in_fp32(layer)
        heard = ref.OPS.attend(
            q.float(), _pool_in_fp32(pool), _narrow(group, step.batch), step.batch, exact.sinks, window
        )
        kind = "everything" if window is None else "a window"
        yield verdict(f"{what}: {kind}", ours, ref.OPS.out(heard, exact, x.float()), dtype)


def experts(step: Decode, what: str) -> Iterator[Row]:
    """Router and experts, of rows whose choice is no close one."""
    model, dtype, config = step.model, step.model.dtype, step.model.config
    layer, exact, top = model.layers[0], in_fp32(model.layers[0]), config.experts_per_token
    x = _decided(_rows(step, 8), exact.mlp_norm, exact.gate_weight, exact.gate_bias, top)[
        : len(step.batch.tokens)
    ]
    ours = OPS.experts(OPS.route(x, layer, top), layer, config.swiglu_limit, x)
    want = ref.OPS.experts(ref.OPS.route(x.float(), exact, top), exact, config.swiglu_limit, x.float())
    yield verdict(what, ours, want, dtype)


def head(step: Decode, what: str) -> Iterator[Row]:
    """Logits."""
    x = _rows(step)
    exact = replace(step.model, unembedding=step.model.unembedding.float())
    ours = OPS.head(x, step.model, step.batch.rows)
    yield verdict(what, ours, ref.OPS.head(x.float(), exact, step.batch.rows), step.model.dtype)


def far_offsets(setting: Setting) -> Iterator[Row]:
    """Blocks, and logits, whose place does not fit into 32 bits."""
    model = drawn_model(
        setting.model("20b", 2), setting.dtype, setting.device, positions=setting.size(4096, 256)
    )
    step = decoding(setting, model, 3, setting.size(1003, 75))
    dtype, config = model.dtype, model.config
    block = BLOCK_TOKENS * config.kv_rows // 2
    far = setting.size((1 << 31) // block + 64, 300)
    group = step.batch.full
    shape = (far + group.tables.amax().item() + 1, *step.kv.layers[1].keys.shape[1:])
    pool = LayerKV(*(torch.zeros(shape, dtype=dtype, device=setting.device) for _ in range(2)))
    near = step.kv.layers[1]
    pool.keys[far:].copy_(near.keys)
    pool.values[far:].copy_(near.values)
    moved = replace(group, tables=group.tables + far, slots=group.slots + far * BLOCK_TOKENS)
    batch = replace(step.batch, full=moved)
    x, layer = _rows(step), model.layers[1]
    q = OPS.qkv(x, layer, model.rope, batch.positions, pool, moved.slots)
    want_q = OPS.qkv(x, layer, model.rope, batch.positions, near, group.slots)
    there = OPS.out(OPS.attend(q, pool, moved, batch, layer.sinks, None), layer, x)
    here = OPS.out(OPS.attend(want_q, near, group, step.batch, layer.sinks, None), layer, x)
    written = pool.keys.flatten(0, 1)[moved.slots]
    same = torch.equal(there, here) and torch.equal(written, near.keys.flatten(0, 1)[group.slots])
    yield Row("keys and values past 2^31", {"blocks": far}, failed=not same)
    del pool, near

    count = setting.size((1 << 31) // config.vocab_size + 64, 70)
    many = Drawing(dtype, setting.device, 1).normal(count, config.hidden_size)
    last = torch.arange(count - 16, count, device=setting.device)
    logits = OPS.head(many, model, torch.arange(count, device=setting.device))
    exact = replace(model, unembedding=model.unembedding.float())
    yield verdict(
        f"logits past 2^31, {count} rows", logits[-16:], ref.OPS.head(many.float(), exact, last), dtype
    )


def _rows(step: Decode, times: int = 1) -> torch.Tensor:
    """What a layer might be given: fresh each time, whatever was drawn before."""
    config, rows = step.model.config, len(step.batch.tokens) * times
    return torch.randn(rows, config.hidden_size, device=step.model.device).to(step.model.dtype)


def _pool_in_fp32(pool: LayerKV) -> LayerKV:
    # Copies, also of what is fp32 already: both sides write their own.
    return LayerKV(pool.keys.to(torch.float32, copy=True), pool.values.to(torch.float32, copy=True))


def _narrow(group: Group, batch: Batch) -> Group:
    """Without the columns behind every row's position: the reference gathers all that there are."""
    columns = int(batch.positions.max()) // BLOCK_TOKENS + 1
    return replace(group, tables=group.tables[:, :columns])


def _decided(
    x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, top: int
) -> torch.Tensor:
    """The rows whose choice of experts does not hang on rounding."""
    logits = torch.nn.functional.linear(rms_norm(x.float(), scale), weight, bias)
    best = logits.sort(dim=1, descending=True).values
    return x[best[:, top - 1] - best[:, top] > MARGIN]


def parts(setting: Setting) -> dict[str, Callable[[Setting], Iterator[Row]]]:
    """What may run at the same time, each in a process of its own."""
    found: dict[str, Callable[[Setting], Iterator[Row]]] = {"decoders": decoders, "offsets": far_offsets}
    for name, dtype in DTYPES.items():
        if setting.tiny and dtype != setting.dtype:
            continue
        for op in ("qkv", "attention", "experts", "head"):
            found[f"{op}-{name}"] = lambda setting, op=op, dtype=dtype: operation(setting, op, dtype)  # type: ignore[misc]
    return found
