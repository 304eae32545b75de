"""What llama.cpp is given holds the checkpoint's numbers, in ggml's order of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bench.gguf_model import Part, block_mxfp4, metadata, parts_of
from local_engine import mxfp4
from local_engine.checkpoint import Checkpoint, open_checkpoint
from local_engine.make import make_checkpoint
from local_engine.presets import GPT_OSS_20B

DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)
"""ggml's table: twice the value of each code."""


def ggml_values(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What ggml reads in rows of `block_mxfp4 { uint8_t e; uint8_t qs[16]; }`: value i is the low half of
    byte i, value i + 16 the high half, times half of 2^(e - 127)."""
    blocks = data.reshape(*data.shape[:-1], -1, 17)
    scale = np.ldexp(np.float32(0.5), blocks[..., :1].astype(np.int32) - 127)
    halves = np.concatenate([blocks[..., 1:] & 0xF, blocks[..., 1:] >> 4], axis=-1)
    values: npt.NDArray[np.float32] = (DOUBLED[halves] * scale).reshape(*data.shape[:-1], -1)
    return values


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    make_checkpoint(folder, "tiny", layers=2)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def parts(checkpoint: Checkpoint) -> dict[str, Part]:
    return {part.name: part for part in parts_of(checkpoint, "bf16")}


def test_every_code_and_scale_means_the_same_in_ggmls_blocks() -> None:
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (3, 5, 7, 16), dtype=np.uint8)
    scales = draw.integers(100, 140, (3, 5, 7), dtype=np.uint8)
    ours = mxfp4.decode(torch.from_numpy(blocks), torch.from_numpy(scales), torch.float32)

    data = block_mxfp4(blocks, scales)

    assert data.shape == (3, 5, 7 * 17)
    assert np.array_equal(ggml_values(data), ours.numpy())


def test_gate_and_up_are_every_other_row_of_one_matrix(
    checkpoint: Checkpoint, parts: dict[str, Part]
) -> None:
    both = mxfp4.decode(*packed(checkpoint, "block.1.mlp.mlp1_weight"), torch.float32).numpy()
    bias = checkpoint.tensor("block.1.mlp.mlp1_bias").float().numpy()
    gate, up = (parts[f"blk.1.ffn_{half}_exps.weight"] for half in ("gate", "up"))

    assert gate.kind == up.kind == "MXFP4"
    assert gate.shape == up.shape == (8, 96, 64)
    assert np.array_equal(ggml_values(gate.data()), both[:, 0::2])
    assert np.array_equal(ggml_values(up.data()), both[:, 1::2])
    assert np.array_equal(parts["blk.1.ffn_gate_exps.bias"].data(), bias[:, 0::2])
    assert np.array_equal(parts["blk.1.ffn_up_exps.bias"].data(), bias[:, 1::2])


def test_the_down_projection_is_whole(checkpoint: Checkpoint, parts: dict[str, Part]) -> None:
    whole = mxfp4.decode(*packed(checkpoint, "block.0.mlp.mlp2_weight"), torch.float32).numpy()
    bias = checkpoint.tensor("block.0.mlp.mlp2_bias").float().numpy()

    assert np.array_equal(ggml_values(parts["blk.0.ffn_down_exps.weight"].data()), whole)
    assert np.array_equal(parts["blk.0.ffn_down_exps.bias"].data(), bias)


def test_queries_keys_and_values_are_the_rows_of_one_projection_in_this_order(
    checkpoint: Checkpoint, parts: dict[str, Part]
) -> None:
    weight = checkpoint.tensor("block.0.attn.qkv.weight").float().numpy()
    bias = checkpoint.tensor("block.0.attn.qkv.bias").float().numpy()
    split = [parts[f"blk.0.attn_{letter}.weight"] for letter in "qkv"]

    assert [part.shape for part in split] == [(256, 64), (128, 64), (128, 64)]
    assert np.array_equal(np.concatenate([bf16(part.data()) for part in split]), weight)
    assert np.array_equal(
        np.concatenate([parts[f"blk.0.attn_{letter}.bias"].data() for letter in "qkv"]), bias
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("token_embd.weight", "embedding.weight"),
        ("output.weight", "unembedding.weight"),
        ("output_norm.weight", "norm.scale"),
        ("blk.1.attn_norm.weight", "block.1.attn.norm.scale"),
        ("blk.1.attn_sinks.weight", "block.1.attn.sinks"),
        ("blk.1.attn_output.weight", "block.1.attn.out.weight"),
        ("blk.1.attn_output.bias", "block.1.attn.out.bias"),
        ("blk.1.post_attention_norm.weight", "block.1.mlp.norm.scale"),
        ("blk.1.ffn_gate_inp.weight", "block.1.mlp.gate.weight"),
        ("blk.1.ffn_gate_inp.bias", "block.1.mlp.gate.bias"),
    ],
)
def test_everything_else_is_what_it_was(
    checkpoint: Checkpoint, parts: dict[str, Part], theirs: str, ours: str
) -> None:
    part = parts[theirs]
    data: Any = part.data()
    values = data if part.kind == "F32" else bf16(data)

    assert part.shape == checkpoint.tensor(ours).shape
    assert np.array_equal(values, checkpoint.tensor(ours).float().numpy())


def test_every_layer_has_the_tensors_that_llama_cpp_asks_for(checkpoint: Checkpoint) -> None:
    names = [part.name for part in parts_of(checkpoint, "q8_0")]
    layer = [
        *(f"attn_{name}" for name in ("norm.weight", "sinks.weight", "output.weight", "output.bias")),
        *(f"attn_{letter}.{kind}" for letter in "qkv" for kind in ("weight", "bias")),
        "post_attention_norm.weight",
        *(f"ffn_gate_inp.{kind}" for kind in ("weight", "bias")),
        *(f"ffn_{name}_exps.{kind}" for name in ("gate", "up", "down") for kind in ("weight", "bias")),
    ]
    whole = ["token_embd.weight", "output_norm.weight", "output.weight"]

    assert sorted(names) == sorted(whole + [f"blk.{n}.{name}" for n in range(2) for name in layer])


def test_only_matrices_outside_the_experts_are_quantized(checkpoint: Checkpoint) -> None:
    quantized = [part.name for part in parts_of(checkpoint, "q8_0") if part.kind == "Q8_0"]
    layer = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight")

    assert quantized == [
        "token_embd.weight",
        *(f"blk.{n}.{name}" for n in range(2) for name in layer),
        "output.weight",
    ]


def test_the_constants_are_those_of_the_model() -> None:
    assert metadata(GPT_OSS_20B) == {
        "gpt-oss.vocab_size": 201088,
        "gpt-oss.context_length": 131072,
        "gpt-oss.embedding_length": 2880,
        "gpt-oss.block_count": 24,
        "gpt-oss.feed_forward_length": 2880,
        "gpt-oss.expert_feed_forward_length": 2880,
        "gpt-oss.expert_count": 32,
        "gpt-oss.expert_used_count": 4,
        "gpt-oss.attention.head_count": 64,
        "gpt-oss.attention.head_count_kv": 8,
        "gpt-oss.attention.key_length": 64,
        "gpt-oss.attention.value_length": 64,
        "gpt-oss.attention.sliding_window": 128,
        "gpt-oss.attention.layer_norm_rms_epsilon": 1e-5,
        "gpt-oss.rope.freq_base": 150000.0,
        "gpt-oss.rope.scaling.type": "yarn",
        "gpt-oss.rope.scaling.factor": 32.0,
        "gpt-oss.rope.scaling.original_context_length": 4096,
        "gpt-oss.rope.scaling.yarn_beta_fast": 32.0,
        "gpt-oss.rope.scaling.yarn_beta_slow": 1.0,
        "tokenizer.ggml.model": "no_vocab",
    }


def packed(checkpoint: Checkpoint, stem: str) -> tuple[torch.Tensor, torch.Tensor]:
    return checkpoint.tensor(f"{stem}.blocks"), checkpoint.tensor(f"{stem}.scales")


def bf16(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The values of rows of bf16's bytes."""
    return torch.from_numpy(data).view(torch.bfloat16).float().numpy()
