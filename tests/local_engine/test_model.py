"""Weights arrive once and as they are; a step writes keys and values in place and answers for its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from local_engine import mxfp4
from local_engine.checkpoint import open_checkpoint
from local_engine.model import forward, kv_block_bytes, load_model, new_kv
from local_engine.ops import Ops, cpu, exact, ref
from local_engine.presets import GPT_OSS_20B, TINY
from local_engine.reference import ReferenceModel
from local_engine.tensors import tensor_specs
from tests.local_engine.batches import Tables, drawn_checkpoint, kv_for, load, logits_of, tensors_of

OPS = {"ref": ref.OPS, "exact": exact.OPS, "cpu": cpu.OPS}
SMALL = replace(TINY, num_hidden_layers=2, sliding_window=20)
PROMPT = torch.randint(0, 512, (45,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.mark.parametrize("form", ["hf", "original"])
def test_loading_tells_of_every_tensor_once_with_its_bytes(tiny: dict[str, Path], form: str) -> None:
    told: list[tuple[str, int]] = []

    load_model(
        open_checkpoint(tiny[form]),
        torch.bfloat16,
        max_context_tokens=64,
        progress=lambda name, nbytes: told.append((name, nbytes)),
    )

    assert sorted(told) == sorted((spec.name, spec.nbytes) for spec in tensor_specs(TINY))


def test_what_is_stored_as_it_is_used_stays_a_view_of_the_file(tiny: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(tiny["original"])

    model = load_model(checkpoint, torch.bfloat16, max_context_tokens=64, decoded_experts_bytes=0)

    for n, layer in enumerate(model.layers):
        for name, tensor in {
            "attn.qkv.weight": layer.qkv_weight,
            "mlp.mlp1_weight.blocks": layer.mlp1.blocks,
            "mlp.mlp1_weight.scales": layer.mlp1.scales,
            "mlp.mlp2_weight.blocks": layer.mlp2.blocks,
            "mlp.mlp2_weight.scales": layer.mlp2.scales,
        }.items():
            assert tensor.data_ptr() == checkpoint.tensor(f"block.{n}.{name}").data_ptr()
    assert model.unembedding.data_ptr() == checkpoint.tensor("unembedding.weight").data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_fp32_packed_experts_bytes_and_all_else_the_models_dtype(
    tiny: dict[str, Path], dtype: torch.dtype
) -> None:
    model = load_model(open_checkpoint(tiny["hf"]), dtype, max_context_tokens=64)

    norms = [model.norm, *(norm for layer in model.layers for norm in (layer.attn_norm, layer.mlp_norm))]
    others = [model.embedding, model.unembedding, model.rope.cos, model.rope.sin]
    for layer in model.layers:
        others += [layer.qkv_weight, layer.qkv_bias, layer.sinks, layer.out_weight, layer.out_bias]
        others += [layer.gate_weight, layer.gate_bias, layer.mlp1.bias, layer.mlp2.bias]
        for experts in (layer.mlp1, layer.mlp2):
            assert experts.blocks.dtype == experts.scales.dtype == torch.uint8
            assert experts.decoded is not None
            others.append(experts.decoded)
    assert {norm.dtype for norm in norms} == {torch.float32}
    assert {other.dtype for other in others} == {dtype}
    assert model.dtype == dtype
    assert model.device == torch.device("cpu")


def test_weights_and_pools_are_on_the_given_device(tiny: dict[str, Path]) -> None:
    # `meta` is a device whose tensors have no memory, and every machine has it.
    model = load_model(
        open_checkpoint(tiny["hf"]), torch.bfloat16, "meta", max_context_tokens=64, decoded_experts_bytes=0
    )

    found = tensors_of((model, new_kv(model, 2, 2)))
    assert model.device == torch.device("meta")
    assert {tensor.device.type for tensor in found} == {"meta"}


@pytest.mark.parametrize("kept", [0, 256 << 20], ids=["packed", "decoded"])
def test_experts_chosen_by_number_and_on_the_device_are_the_decoded_blocks(
    tiny: dict[str, Path], kept: int
) -> None:
    layer = load(open_checkpoint(tiny["hf"]), torch.bfloat16, decoded_experts_bytes=kept).layers[1]

    for experts in (layer.mlp1, layer.mlp2):
        wanted = mxfp4.decode(experts.blocks, experts.scales, torch.bfloat16)
        assert (experts.decoded is None) == (kept == 0)
        assert torch.equal(experts.weight(5), wanted[5])
        assert torch.equal(experts.weights(torch.tensor([6, 0, 3])), wanted[[6, 0, 3]])


def test_experts_are_decoded_at_load_up_to_the_very_byte(tiny: dict[str, Path]) -> None:
    nbytes = 4 * 8 * 3 * 64 * 96 * 2

    for room, decoded in ((nbytes, True), (nbytes - 1, False)):
        model = load(open_checkpoint(tiny["hf"]), torch.bfloat16, decoded_experts_bytes=room)
        assert (model.layers[0].mlp1.decoded is not None) == decoded


@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_packed_experts_give_the_logits_of_decoded_ones(ops: Ops) -> None:
    checkpoint = drawn_checkpoint(SMALL)
    packed, decoded = load(checkpoint, decoded_experts_bytes=0), load(checkpoint)

    assert torch.equal(logits_of(packed, ops, [PROMPT])[0], logits_of(decoded, ops, [PROMPT])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rotation_of_a_position_is_the_references(tiny: dict[str, Path], dtype: torch.dtype) -> None:
    checkpoint = open_checkpoint(tiny["hf"])

    rope = load_model(checkpoint, dtype, max_context_tokens=131072).rope

    cos, sin = ReferenceModel(checkpoint, dtype)._rotation(torch.tensor([0, 1, 4095, 131071]))
    assert rope.cos.shape == rope.sin.shape == (131072, 1, 32)
    assert torch.equal(rope.cos[[0, 1, 4095, 131071]], cos)
    assert torch.equal(rope.sin[[0, 1, 4095, 131071]], sin)


def test_a_token_of_20b_costs_24_kib_in_each_group() -> None:
    assert kv_block_bytes(GPT_OSS_20B, torch.bfloat16) == (16 * 24 * 1024, 16 * 24 * 1024)
    assert kv_block_bytes(replace(GPT_OSS_20B, num_hidden_layers=3), torch.float32) == (65536, 131072)


def test_pools_are_as_large_as_their_blocks_and_empty() -> None:
    model = load(drawn_checkpoint(replace(SMALL, num_hidden_layers=3)), torch.bfloat16)
    full, window = kv_block_bytes(model.config, torch.bfloat16)

    kv = new_kv(model, full_blocks=5, window_blocks=3)

    pools = [part for n in range(3) for part in (kv.layer(n).keys, kv.layer(n).values)]
    assert [tuple(part.shape) for part in pools] == [(3, 16, 2, 64)] * 2 + [(5, 16, 2, 64)] * 2 + [
        (3, 16, 2, 64)
    ] * 2
    assert sum(part.nbytes for part in pools) == 5 * full + 3 * window
    assert not any(part.any() for part in pools)


@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_a_step_writes_its_rows_slots_in_place_and_no_others(ops: Ops) -> None:
    model = load(drawn_checkpoint(SMALL))
    tables = Tables.of(2, 48, shuffled=4)
    kv = kv_for(model, tables)
    before = [part.data_ptr() for layer in kv.layers for part in (layer.keys, layer.values)]
    batch = tables.batch([(1, PROMPT[:20], 0), (0, PROMPT[:1], 0)])

    forward(model, batch, kv, ops)

    assert [part.data_ptr() for layer in kv.layers for part in (layer.keys, layer.values)] == before
    for n, group in enumerate((batch.window, batch.full)):
        for part in (kv.layer(n).keys, kv.layer(n).values):
            written = part.flatten(0, 1).flatten(1).any(1).nonzero().flatten().tolist()
            assert written == sorted(group.slots.tolist())


@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_a_step_that_samples_nothing_returns_nothing_and_still_writes(ops: Ops) -> None:
    model = load(drawn_checkpoint(SMALL))
    tables = Tables.of(1, 48)
    kv = kv_for(model, tables)

    nothing = forward(model, tables.batch([(0, PROMPT[:40], 0)], rows=[]), kv, ops)
    rest = forward(model, tables.batch([(0, PROMPT[40:], 40)]), kv, ops)

    assert nothing.shape == (0, 512)
    assert nothing.dtype == torch.float32
    torch.testing.assert_close(rest, logits_of(model, ops, [PROMPT])[0][40:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_fp32_of_the_wanted_rows_in_their_order(ops: Ops, dtype: torch.dtype) -> None:
    if ops is exact.OPS:
        dtype = torch.float32  # the only one that exact arithmetic is promised in
    model = load(drawn_checkpoint(SMALL), dtype)
    tables = Tables.of(1, 48)

    some = forward(model, tables.batch([(0, PROMPT, 0)], rows=[44, 3, 17]), kv_for(model, tables), ops)

    wanted = logits_of(model, ops, [PROMPT])[0][[44, 3, 17]]
    assert some.dtype == torch.float32
    torch.testing.assert_close(some, wanted, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.05)
