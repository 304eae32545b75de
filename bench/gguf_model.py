"""A checkpoint as a GGUF that llama.cpp reads: the same weights in its order, without a vocabulary.

    python -m bench.gguf_model CHECKPOINT OUT.gguf [--dense bf16|q8_0]

Three things are not where the checkpoint has them. In ggml's `block_mxfp4` a byte holds values i and i + 16
of its 32, behind the scale, and not two neighbours; gate and up projections are two matrices, and not every
other row of one; q, k and v are apart. The scale's byte and the codes themselves are the same.

Matrices outside the experts are BF16 as stored, or quantized to Q8_0. Norms, biases, sinks and the router are
fp32, as in the files that llama.cpp's own converter writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from bench.peers.build import import_gguf
from local_engine.checkpoint import Checkpoint, open_checkpoint
from local_engine.config import MXFP4_GROUP, ModelConfig
from local_engine.mxfp4 import GROUP_BYTES
from local_engine.reference import RMS_EPS
from local_engine.tensors import tensor_specs

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]

Dense = Literal["bf16", "q8_0"]
ARCHITECTURE = "gpt-oss"


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the file: its name, its ggml type, the shape of its values, and what makes its data.

    Data of F32 is fp32; of BF16, Q8_0 and MXFP4 it is the rows' bytes.
    """

    name: str
    kind: Literal["F32", "BF16", "Q8_0", "MXFP4"]
    shape: tuple[int, ...]
    data: Callable[[], npt.NDArray[Any]]


def write(checkpoint: Checkpoint, path: Path, dense: Dense) -> None:
    """Writes `path`, which appears under its name only once it is whole."""
    gguf = import_gguf()
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    for key, value in metadata(checkpoint.config).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(key, value)
    parts = list(parts_of(checkpoint, dense))
    for part in parts:
        kind = gguf.GGMLQuantizationType[part.kind]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        row = part.shape[-1] // values * size
        nbytes = int(np.prod(part.shape[:-1])) * row
        if part.kind == "F32":
            writer.add_tensor_info(part.name, part.shape, np.dtype(np.float32), nbytes)
        else:
            writer.add_tensor_info(part.name, (*part.shape[:-1], row), np.dtype(np.uint8), nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for part in parts:
        writer.write_tensor_data(part.data())
    writer.close()
    partial.replace(path)


def metadata(config: ModelConfig) -> dict[str, str | int | float]:
    """The keys that llama.cpp reads a gpt-oss by."""
    c = config
    own: dict[str, str | int | float] = {
        "vocab_size": c.vocab_size,
        "context_length": c.max_context_tokens,
        "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers,
        "feed_forward_length": c.intermediate_size,
        "expert_feed_forward_length": c.intermediate_size,
        "expert_count": c.num_experts,
        "expert_used_count": c.experts_per_token,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.sliding_window": c.sliding_window,
        "attention.layer_norm_rms_epsilon": RMS_EPS,
        "rope.freq_base": c.rope_theta,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": c.rope_scaling_factor,
        "rope.scaling.original_context_length": c.initial_context_length,
        "rope.scaling.yarn_beta_fast": c.rope_ntk_beta,
        "rope.scaling.yarn_beta_slow": c.rope_ntk_alpha,
    }
    return {f"{ARCHITECTURE}.{key}": value for key, value in own.items()} | {
        "tokenizer.ggml.model": "no_vocab"
    }


def parts_of(checkpoint: Checkpoint, dense: Dense) -> Iterator[Part]:
    """Every tensor of the file, in its order. Data is made when it is asked for, a tensor at a time."""
    c = checkpoint.config

    def matrix(name: str, of: str, rows: slice = slice(None)) -> Part:
        start, stop, _ = rows.indices(shapes[of][0])
        shape = (stop - start, shapes[of][1])
        if dense == "q8_0":
            return Part(name, "Q8_0", shape, lambda: q8_0(checkpoint.tensor(of)[rows]))
        return Part(name, "BF16", shape, lambda: as_bytes(checkpoint.tensor(of)[rows].to(torch.bfloat16)))

    def floats(name: str, of: str, rows: slice = slice(None), *, columns: bool = False) -> Part:
        shape = shapes[of]
        picked = (slice(None), rows) if columns else (rows,)
        shape = (
            tuple(len(range(*at.indices(count))) for at, count in zip(picked, shape, strict=False))
            + shape[len(picked) :]
        )
        return Part(name, "F32", shape, lambda: checkpoint.tensor(of)[picked].float().contiguous().numpy())

    def packed(name: str, of: str, rows: slice = slice(None)) -> Part:
        experts, count, groups, _ = shapes[f"{of}.blocks"]
        shape = (experts, len(range(*rows.indices(count))), groups * MXFP4_GROUP)

        def data() -> Bytes:
            blocks, scales = (checkpoint.tensor(f"{of}.{part}") for part in ("blocks", "scales"))
            return np.stack(
                [block_mxfp4(b[rows].numpy(), s[rows].numpy()) for b, s in zip(blocks, scales, strict=True)]
            )

        return Part(name, "MXFP4", shape, data)

    q = slice(0, c.q_rows)
    k = slice(c.q_rows, c.q_rows + c.kv_rows)
    v = slice(c.q_rows + c.kv_rows, c.qkv_rows)
    gate, up = slice(0, None, 2), slice(1, None, 2)
    shapes = {spec.name: spec.shape for spec in tensor_specs(c)}
    yield matrix("token_embd.weight", "embedding.weight")
    for n in range(c.num_hidden_layers):
        ours, theirs = f"block.{n}.", f"blk.{n}."
        yield floats(theirs + "attn_norm.weight", ours + "attn.norm.scale")
        for letter, rows in (("q", q), ("k", k), ("v", v)):
            yield matrix(f"{theirs}attn_{letter}.weight", ours + "attn.qkv.weight", rows)
            yield floats(f"{theirs}attn_{letter}.bias", ours + "attn.qkv.bias", rows)
        yield floats(theirs + "attn_sinks.weight", ours + "attn.sinks")
        yield matrix(theirs + "attn_output.weight", ours + "attn.out.weight")
        yield floats(theirs + "attn_output.bias", ours + "attn.out.bias")
        yield floats(theirs + "post_attention_norm.weight", ours + "mlp.norm.scale")
        yield floats(theirs + "ffn_gate_inp.weight", ours + "mlp.gate.weight")
        yield floats(theirs + "ffn_gate_inp.bias", ours + "mlp.gate.bias")
        for part, stem, rows in (("gate", "mlp1", gate), ("up", "mlp1", up), ("down", "mlp2", slice(None))):
            yield packed(f"{theirs}ffn_{part}_exps.weight", f"{ours}mlp.{stem}_weight", rows)
            yield floats(f"{theirs}ffn_{part}_exps.bias", f"{ours}mlp.{stem}_bias", rows, columns=True)
    yield floats("output_norm.weight", "norm.scale")
    yield matrix("output.weight", "unembedding.weight")


def block_mxfp4(blocks: Bytes, scales: Bytes) -> Bytes:
    """Packed groups u8 [..., G, 16] and their scales u8 [..., G] as ggml's blocks, u8 [..., G * 17]."""
    codes = np.stack([blocks & 0xF, blocks >> 4], axis=-1).reshape(*scales.shape, MXFP4_GROUP)
    shared = codes[..., :GROUP_BYTES] | codes[..., GROUP_BYTES:] << 4
    return np.concatenate([scales[..., None], shared], axis=-1).reshape(*scales.shape[:-1], -1)


def q8_0(values: torch.Tensor) -> Bytes:
    """Rows of values as ggml's Q8_0: 32 of them share an fp16 factor."""
    gguf = import_gguf()
    made = gguf.quants.quantize(values.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
    return cast("Bytes", made)


def as_bytes(values: torch.Tensor) -> Bytes:
    """The bytes of each row."""
    return values.contiguous().view(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dense", choices=["bf16", "q8_0"], default="bf16")
    options = parser.parse_args()
    write(open_checkpoint(options.checkpoint), options.out, options.dense)


if __name__ == "__main__":
    main()
