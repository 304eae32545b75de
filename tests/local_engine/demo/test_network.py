"""What is trained computes what the reference computes, and its experts are what a checkpoint can hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from local_engine import mxfp4
from local_engine.demo.expand import DEMO_CONFIG
from local_engine.demo.network import Network, counted, initial_parameters, pack, rounded
from local_engine.demo.train import Trained, stored
from local_engine.reference import rotate, yarn
from tests.local_engine.demo.compact import Compact

IDS = list(range(50))
LOUD = replace(DEMO_CONFIG, sliding_window=8)


@pytest.fixture
def parameters() -> dict[str, torch.Tensor]:
    """Parameters in which nothing is left at its start: biases, norms and sinks count too."""
    generator = torch.Generator().manual_seed(5)
    made = initial_parameters(LOUD, len(IDS) + 1, generator)
    return {
        name: (values.detach() + 0.3 * torch.randn(values.shape, generator=generator)).bfloat16().float()
        for name, values in made.items()
    }


def test_the_trained_forward_is_the_references(parameters: dict[str, torch.Tensor]) -> None:
    rows = torch.randint(0, len(IDS) + 1, (2, 40), generator=torch.Generator().manual_seed(1))
    wanted = torch.ones(2, 40, dtype=torch.bool)
    wanted[0, 30:] = False
    ours = Network(LOUD, parameters).forward(rows, wanted)
    compact = Compact(stored(Trained(parameters, IDS, 0.0)), LOUD)
    theirs = [
        compact.model.forward(rows[n, :length].tolist(), compact.model.new_cache())
        for n, length in ((0, 30), (1, 40))
    ]

    assert ours.std() > 0.5
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-4, atol=1e-4)


def test_the_window_and_the_sinks_matter_to_the_trained_forward(parameters: dict[str, torch.Tensor]) -> None:
    rows = torch.randint(0, len(IDS), (1, 40), generator=torch.Generator().manual_seed(1))
    last = torch.zeros(1, 40, dtype=torch.bool)
    last[0, -1] = True
    plain = Network(LOUD, parameters).forward(rows, last)
    wide = Network(replace(LOUD, sliding_window=9), parameters).forward(rows, last)
    parameters["block.1.attn.sinks"] = parameters["block.1.attn.sinks"] + 2
    sunk = Network(LOUD, parameters).forward(rows, last)

    assert (plain - wide).abs().max() > 1e-2
    assert (plain - sunk).abs().max() > 1e-2


def test_rounding_gives_what_the_packed_bytes_hold_and_the_nearest_there_is() -> None:
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(2))
    weight[0, :32] = 0
    weight[1, :32] = torch.tensor(mxfp4.MAGNITUDES).repeat(4) * 0.25
    found = rounded(weight)
    blocks, scales = pack(weight)
    units = torch.exp2(scales.float() - 127).repeat_interleave(32, dim=-1)
    values = torch.tensor([*mxfp4.MAGNITUDES, *(-value for value in mxfp4.MAGNITUDES)])
    nearest = (weight[..., None] / units[..., None] - values).abs().amin(dim=-1) * units

    assert torch.equal(mxfp4.decode(blocks, scales, torch.float32), found)
    assert torch.equal(found[:2, :32], weight[:2, :32])
    torch.testing.assert_close((found - weight).abs(), nearest, rtol=1e-5, atol=1e-6)
    assert torch.equal(rounded(found), found)


def test_a_gradient_goes_straight_through_the_rounding() -> None:
    weight = torch.randn(2, 32, requires_grad=True)
    (rounded(weight) * torch.arange(64.0).reshape(2, 32)).sum().backward()  # type: ignore[no-untyped-call]

    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.arange(64.0).reshape(2, 32))


def test_the_last_row_counts_as_often_as_it_stands_for_a_token() -> None:
    logits = torch.tensor([[1.0, 2.0, -3.0]])
    shares = torch.softmax(counted(logits, 1000), dim=-1)
    spelled = torch.softmax(torch.tensor([1.0, 2.0, *[-3.0] * 20_000]), dim=-1)

    torch.testing.assert_close(shares[0, :2], spelled[:2])


def test_the_first_head_begins_with_a_look_at_the_token_before() -> None:
    parameters = initial_parameters(LOUD, len(IDS) + 1, torch.Generator().manual_seed(0))
    c = LOUD
    bias = parameters["block.0.attn.qkv.bias"].detach()
    inv_freq, concentration = yarn(c)
    angles = torch.arange(12)[:, None, None].float() * inv_freq
    cos, sin = angles.cos() * concentration, angles.sin() * concentration
    q = rotate(bias[: c.head_dim].expand(12, 1, -1), cos, sin)[:, 0]
    k = rotate(bias[c.q_rows : c.q_rows + c.head_dim].expand(12, 1, -1), cos, sin)[:, 0]
    shares = torch.softmax((q @ k.T * c.head_dim**-0.5).tril(), dim=-1)

    assert shares.argmax(dim=-1).tolist() == [0, *range(11)]
    assert shares[range(1, 12), range(11)].min() > 0.9
