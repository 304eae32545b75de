"""Router and experts give what plain torch gives, at every number of rows and sizes that nothing divides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from local_engine.errors import SetupError
from local_engine.model import Experts, Layer
from local_engine.ops import ref
from local_engine.ops.triton.experts import DECODE_ROWS, DOWN, UP, experts
from local_engine.ops.triton.grouped import tiles
from local_engine.ops.triton.router import SCORED_ROWS, Chosen, Scored, route
from tests.local_engine.ops.triton.layers import Shape, drawn_layer

NARROW = Shape(experts=5, top=2, hidden=160, inner=96)
ODD = Shape(experts=7, top=3, hidden=96, inner=160)
LIMIT = 7.0

# The second is a row that is not a number: it has no experts, and adds up what nobody wrote to what is NaN.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in add:RuntimeWarning"),
]
"""A gate far below zero is shut by 1 / inf."""


def rows_of(count: int, shape: Shape) -> torch.Tensor:
    return 3 * torch.randn(count, shape.hidden, generator=torch.Generator().manual_seed(count))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def agrees(x: torch.Tensor, layer: Layer, top: int) -> None:
    """Asserts that both operations, one after the other, give what plain torch's do."""
    wanted = ref.OPS.experts(ref.OPS.route(x, layer, top), layer, LIMIT, x)

    found = experts(route(x, layer, top), layer, LIMIT, x)

    close(found, wanted)


@pytest.mark.parametrize("rows", [*range(1, 18), 31, 32, 33, 63, 64, 65, 100])
def test_any_number_of_rows_is_what_plain_torch_gives(rows: int) -> None:
    agrees(rows_of(rows, NARROW), drawn_layer(NARROW), NARROW.top)


@pytest.mark.parametrize("rows", [1, 3, 8, 17, 33, 70])
def test_three_of_seven_experts_at_sizes_that_no_tile_divides(rows: int) -> None:
    agrees(rows_of(rows, ODD), drawn_layer(ODD), ODD.top)


@pytest.mark.parametrize("count", [32, 128])
@pytest.mark.parametrize("rows", [1, 2, 17, 66])
def test_four_of_as_many_experts_as_gpt_oss_has_most_of_them_untouched(count: int, rows: int) -> None:
    shape = Shape(experts=count, top=4, hidden=32, inner=32)
    agrees(rows_of(rows, shape), drawn_layer(shape), shape.top)


@pytest.mark.parametrize("rows", [5, 40, 200])
def test_one_expert_that_every_row_chooses(rows: int) -> None:
    layer = drawn_layer(NARROW)
    bias = torch.full_like(layer.gate_bias, -1e3)
    bias[3] = 1e3

    agrees(rows_of(rows, NARROW), replace(layer, gate_bias=bias), 1)


def test_the_values_hit_both_clamps() -> None:
    layer, x = drawn_layer(ODD), rows_of(8, ODD)
    t, ids, _ = ref.OPS.route(x, layer, ODD.top)
    h = torch.cat([layer.mlp1.weight(e) @ t[row] + layer.mlp1.bias[e] for row in range(8) for e in ids[row]])

    assert (h[0::2] > LIMIT).float().mean() > 0.05
    assert (h[1::2] > LIMIT).float().mean() > 0.05
    assert (h[1::2] < -LIMIT).float().mean() > 0.05


@pytest.mark.parametrize("rows", [1, SCORED_ROWS])
def test_few_rows_are_scored(rows: int) -> None:
    layer, x = drawn_layer(ODD), rows_of(rows, ODD)

    sent = route(x, layer, ODD.top)

    assert isinstance(sent, Scored)
    t = ref.OPS.route(x, layer, ODD.top).t
    close(sent.logits, t @ layer.gate_weight.T + layer.gate_bias)


@pytest.mark.parametrize("rows", [SCORED_ROWS + 1, 100])
def test_more_rows_get_the_experts_that_plain_torch_chooses_in_ascending_order(rows: int) -> None:
    layer, x = drawn_layer(ODD), rows_of(rows, ODD)

    sent = route(x, layer, ODD.top)

    assert isinstance(sent, Chosen)
    _, ids, weights = ref.OPS.route(x, layer, ODD.top)
    ids, order = ids.sort(-1)
    assert torch.equal(sent.ids.long(), ids)
    close(sent.shares, weights.gather(-1, order))


@pytest.mark.parametrize("rows", [2, 20])
def test_of_equal_scores_the_lowest_id_wins(rows: int) -> None:
    layer = drawn_layer(ODD)
    alike = replace(layer, gate_weight=torch.zeros_like(layer.gate_weight), gate_bias=torch.zeros(7))
    x = rows_of(rows, ODD)
    wanted = replace(alike, gate_bias=torch.tensor([9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0]))

    found = experts(route(x, alike, ODD.top), alike, LIMIT, x)

    close(found, ref.OPS.experts(ref.OPS.route(x, wanted, ODD.top), wanted, LIMIT, x))


@pytest.mark.parametrize("rows", [2, 4, 20, 70])
def test_a_row_that_is_not_a_number_stays_one_and_disturbs_no_other(rows: int) -> None:
    layer, x = drawn_layer(ODD), rows_of(rows, ODD)
    wanted = experts(route(x, layer, ODD.top), layer, LIMIT, x)
    x[0] = torch.nan

    found = experts(route(x, layer, ODD.top), layer, LIMIT, x)

    assert found[0].isnan().all()
    close(found[1:], wanted[1:])


def test_a_row_alone_that_is_not_a_number_stays_one() -> None:
    layer, x = drawn_layer(ODD), torch.full((1, ODD.hidden), torch.nan)

    assert experts(route(x, layer, ODD.top), layer, LIMIT, x).isnan().all()


@pytest.mark.parametrize("rows", [1, SCORED_ROWS + 1])
def test_rows_near_zero_are_normed_with_the_reference_s_epsilon(rows: int) -> None:
    layer, x = drawn_layer(ODD), 1e-3 * rows_of(rows, ODD)

    found = torch.stack(route(x, layer, ODD.top).t.chunk(2, dim=-1), -1).flatten(1)

    close(found, ref.OPS.route(x, layer, ODD.top).t)


def test_pairs_are_in_tiles_of_one_expert_each() -> None:
    ids = torch.tensor([[0, 3], [3, 4], [0, 3], [2, 3]], dtype=torch.int32)

    expert, pairs = tiles(ids, 5, 3)

    assert expert.tolist() == [0, 2, 3, 3, 4, -1, -1]
    assert pairs.tolist()[:5] == [[0, 4, -1], [6, -1, -1], [1, 2, 5], [7, -1, -1], [3, -1, -1]]
    assert set(pairs[5:].flatten().tolist()) == {-1}


@pytest.mark.parametrize("rows", [1, 17, DECODE_ROWS + 1])
def test_experts_that_are_stored_decoded_are_left_to_plain_torch(rows: int) -> None:
    agrees(rows_of(rows, ODD), drawn_layer(ODD, decoded=True), ODD.top)


def test_more_packed_weights_in_a_layer_than_offsets_reach_are_refused() -> None:
    layer, x = drawn_layer(ODD), rows_of(1, ODD)
    vast = torch.empty(1 << 31, dtype=torch.uint8, device="meta").view(1 << 11, 1 << 11, 32, 16)
    sent = route(x, layer, ODD.top)
    vast_layer = replace(layer, mlp1=Experts(vast, layer.mlp1.scales, layer.mlp1.bias, None))

    with pytest.raises(SetupError, match="2048 experts of 2048 x 96"):
        experts(sent, vast_layer, LIMIT, x)


def test_both_projections_take_as_many_rows_at_once() -> None:
    assert [(config.rows, config.sizes["BN"]) for config in UP] == [
        (config.rows, config.sizes["BN"]) for config in DOWN
    ]
