"""What `inspect` says about a checkpoint, as plain data. Looks at headers only, never at weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from local_engine.checkpoint import Checkpoint
from local_engine.config import ModelConfig
from local_engine.errors import SetupError
from local_engine.footprint import needs, size
from local_engine.harmony.tokens import VOCABULARY_SIZE
from local_engine.hub import read_record
from local_engine.machine import Available, Device
from local_engine.memory import GRACE, window_blocks
from local_engine.scheduler import STEP_TOKENS, blocks_needed
from local_engine.tokenizer_json import FILE


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of weights, biases, norms and sinks; `active` is what one token is multiplied with.

    The released models give 20.9 B / 3.6 B and 116.8 B / 5.1 B, as in the gpt-oss model card.
    """

    total: int
    active: int


def count_parameters(config: ModelConfig) -> Parameters:
    """Counts from the shapes. As in the model card, the unembedding is active and the embedding is not."""
    c = config
    attention = c.hidden_size + c.qkv_rows * (c.hidden_size + 1) + c.num_attention_heads
    attention += c.hidden_size * (c.q_rows + 1)
    router = c.hidden_size + c.num_experts * (c.hidden_size + 1)
    expert = 2 * c.intermediate_size * (c.hidden_size + 1) + c.hidden_size * (c.intermediate_size + 1)
    table = c.vocab_size * c.hidden_size
    outside = c.hidden_size + c.num_hidden_layers * (attention + router)
    return Parameters(
        total=2 * table + outside + c.num_hidden_layers * c.num_experts * expert,
        active=table + outside + c.num_hidden_layers * c.experts_per_token * expert,
    )


def inspect(checkpoint: Checkpoint) -> dict[str, Any]:
    """Format, sizes, origin, vocabulary and configuration; JSON-ready."""
    origin = checkpoint.origin
    if origin.preset is None:
        weights = "from elsewhere"
    elif origin.preset == "demo":
        weights = "a tiny model trained on made-up conversations: it answers small talk and knows nothing"
    else:
        weights = "random: the right shape, no meaning"
    stored = Counter[str]()
    for spec in checkpoint.stored:
        stored[spec.dtype] += spec.nbytes
    return {
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "weights": weights,
        "preset": origin.preset,
        "seed": origin.seed,
        "hub": _hub(checkpoint),
        "fingerprint": checkpoint.fingerprint,
        "released_shape": checkpoint.config.released_name,
        "parameters": asdict(count_parameters(checkpoint.config)),
        "tensor_bytes": checkpoint.nbytes,
        "stored_bytes": dict(stored),
        "experts": "decoded, so about four times their packed size" if checkpoint.dense else "packed mxfp4",
        "vocabulary": _vocabulary(checkpoint),
        "max_context_tokens": checkpoint.config.max_context_tokens,
        "config": checkpoint.config.to_original(),
    }


def memory_of(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    there: Mapping[Device, Available | None],
    *,
    context_tokens: int,
    running: int,
    dense_int8: bool = False,
) -> dict[str, Any]:
    """What `running` sequences of `context_tokens` need on each device, beside what is there; JSON-ready.

    `dense_int8`, on the host only, is what `--dense int8` makes of the weights.
    The pools are those of an engine with room for just that. `peak_bytes` is the process at its largest.

    `fits` is `yes`, `slowly` (mapped weights would be read again and again), `no`, or None without the
    device.
    """
    config = checkpoint.config
    context = min(context_tokens, config.max_context_tokens)
    full = running * blocks_needed(context, STEP_TOKENS, config.sliding_window)[0]
    window = window_blocks(config, full, running, context, STEP_TOKENS)
    devices = {}
    for device, has in there.items():
        needed = needs(
            config,
            dtype,
            device,
            full_blocks=full,
            window_blocks=window,
            context_tokens=context,
            max_running=running,
            step_tokens=STEP_TOKENS,
            dense_experts=bool(checkpoint.dense),
            dense_int8=dense_int8 and device == "cpu",
        )
        fits = None
        if has is not None:
            room = has.free_bytes * GRACE
            fits = (
                "yes" if needed.total_bytes <= room else "slowly" if needed.committed_bytes <= room else "no"
            )
        devices[device] = {
            **asdict(needed),
            "total_bytes": needed.total_bytes,
            "peak_bytes": needed.peak_bytes,
            "free_bytes": None if has is None else has.free_bytes,
            "device_bytes": None if has is None else has.total_bytes,
            "fits": fits,
            "summary": needed.describe(),
        }
    return {"context_tokens": context, "running": running, "devices": devices}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person, a line a fact."""
    for key, value in found.items():
        if key == "memory":
            yield f"memory for {value['running']} x {value['context_tokens']} tokens:"
            for device, needed in value["devices"].items():
                yield f"  {device}: {needed['summary']}"
                below = f"  {' ' * len(device)}  "
                yield f"{below}{_there(needed)}"
                if needed["process_bytes"]:
                    yield f"{below}resident at most: {size(needed['peak_bytes'])}, the process included"
        elif isinstance(value, dict):
            yield f"{key}: {', '.join(f'{name} {_plain(name, item)}' for name, item in value.items())}"
        elif isinstance(value, list):
            yield f"{key}: {', '.join(value)}"
        else:
            yield f"{key}: {_plain(key, value)}"


def _plain(key: str, value: object) -> str:
    if isinstance(value, int) and key in ("tensor_bytes", "BF16", "U8", "F16", "F32"):
        return size(value)
    if isinstance(value, int) and key in ("total", "active"):
        return f"{value / 1e9:.2f} B" if value >= 1e8 else f"{value / 1e6:.2f} M"
    return "none" if value is None else str(value)


def _there(needed: Mapping[str, Any]) -> str:
    if needed["free_bytes"] is None:
        return "there: no such device here"
    judged = {
        "yes": "it fits",
        "slowly": "it runs, but reads weights from disk again and again",
        "no": "it does not fit",
    }
    free, total = size(needed["free_bytes"]), size(needed["device_bytes"])
    return f"there: {free} free of {total}: {judged[needed['fits']]}"


def _hub(checkpoint: Checkpoint) -> dict[str, str] | None:
    try:
        record = read_record(checkpoint.path)
    except SetupError:
        return None
    return {"repo": record.repo, "commit": record.commit, "fetched": record.fetched}


def _vocabulary(checkpoint: Checkpoint) -> str:
    if checkpoint.config.vocab_size != VOCABULARY_SIZE:
        return f"none: {checkpoint.config.vocab_size} ids are not o200k_harmony, so it cannot speak"
    if (checkpoint.path / FILE).is_file():
        return FILE
    return f"missing: put the model's `{FILE}` beside its weights"
