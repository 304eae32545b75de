"""A step's bytes are those that the shapes of the released models come to."""

from __future__ import annotations

import math

import pytest
import torch

from bench.drawn import drawn_model
from bench.gpu_engine import weights_bytes
from bench.roofline import head_bytes, layer_bytes, step_bytes, touched
from local_engine.config import ModelConfig
from local_engine.model import Model
from local_engine.presets import GPT_OSS_20B, GPT_OSS_120B, TINY
from local_engine.tensors import tensor_specs


@pytest.mark.parametrize(("config", "megabytes"), [(GPT_OSS_20B, 3708), (GPT_OSS_120B, 5003)])
def test_a_token_alone_reads_what_its_experts_attention_and_the_head_weigh(
    config: ModelConfig, megabytes: int
) -> None:
    assert step_bytes(config, 1, 0) / 1e6 == pytest.approx(megabytes, rel=2e-3)


@pytest.mark.parametrize(
    ("config", "context", "megabytes"),
    [
        (GPT_OSS_20B, 8192, 204),
        (GPT_OSS_20B, 32_768, 808),
        (GPT_OSS_20B, 131_072, 3224),
        (GPT_OSS_120B, 8192, 307),
        (GPT_OSS_120B, 131_072, 4837),
    ],
)
def test_a_context_adds_keys_and_values_of_half_the_layers_and_a_window_of_the_others(
    config: ModelConfig,
    context: int,
    megabytes: int,
) -> None:
    added = step_bytes(config, 1, context) - step_bytes(config, 1, 0)

    assert added / 1e6 == pytest.approx(megabytes, rel=0.01)
    assert step_bytes(config, 8, context, 4) - step_bytes(config, 8, 0, 4) == 8 * added


def test_experts_that_several_rows_choose_are_read_once() -> None:
    assert touched(GPT_OSS_20B, 1) == pytest.approx(4)
    assert touched(GPT_OSS_20B, 4) == pytest.approx(13.2, abs=0.1)
    assert touched(GPT_OSS_120B, 64) == pytest.approx(111, abs=0.5)
    assert touched(GPT_OSS_20B, 10_000) == pytest.approx(32)
    one, two = (layer_bytes(GPT_OSS_20B, 8, 100, experts) for experts in (6.0, 12.0))
    assert two.experts == 2 * one.experts
    assert two.qkv == one.qkv


def test_a_drawn_model_has_the_tensors_of_a_checkpoint_of_its_shape() -> None:
    model = drawn_model(TINY, torch.float32, torch.device("cpu"), positions=64)
    shapes = sorted(tuple(spec.shape) for spec in tensor_specs(TINY))
    experts = [one for layer in model.layers for one in (layer.mlp1, layer.mlp2)]
    packed = [tuple(part.shape) for one in experts for part in (one.blocks, one.scales, one.bias)]
    names = ("attn_norm", "qkv_weight", "qkv_bias", "sinks", "out_weight", "out_bias", "mlp_norm")
    dense = [getattr(layer, name) for layer in model.layers for name in (*names, "gate_weight", "gate_bias")]
    dense += [model.embedding, model.unembedding, model.norm]

    assert sorted([*packed, *(tuple(part.shape) for part in dense)]) == shapes
    assert model.rope.cos.shape == (64, 1, TINY.head_dim // 2)
    other = drawn_model(TINY, torch.float32, torch.device("cpu"), positions=64)
    assert torch.equal(model.layers[1].mlp2.blocks, other.layers[1].mlp2.blocks)
    assert not torch.equal(model.layers[0].mlp2.blocks, model.layers[1].mlp2.blocks)


def test_the_weights_of_all_layers_are_what_a_step_touches_if_it_touches_every_expert() -> None:
    model = drawn_model(TINY, torch.bfloat16, torch.device("cpu"), positions=64)
    step = step_bytes(TINY, 1, 0, TINY.num_experts)

    assert weights_bytes(model) == math.ceil(step) + head_bytes(TINY) - _biases(model)


def _biases(model: Model) -> int:
    return sum(
        one.nbytes for layer in model.layers for one in (layer.qkv_bias, layer.out_bias, layer.gate_bias)
    )
