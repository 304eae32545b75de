"""Router and experts give what plain torch gives, at every number of rows and at sizes that nothing divides."""

from __future__ import annotations

import pytest
import torch

from local_engine.model import Layer
from local_engine.ops import Ops, ref
from local_engine.ops.triton import experts as few
from local_engine.ops.triton.experts import experts
from local_engine.ops.triton.router import route
from tests.local_engine.ops.triton.layers import Shape, drawn_layer

ODD = Shape(experts=7, top=3, hidden=96, inner=160)
LIMIT = 7.0

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
"""A gate far below zero is shut by 1 / inf."""


def rows_of(count: int, shape: Shape) -> torch.Tensor:
    return 3 * torch.randn(count, shape.hidden, generator=torch.Generator().manual_seed(count))


def reference(x: torch.Tensor, layer: Layer, top: int) -> torch.Tensor:
    return ref.OPS.experts(ref.OPS.route(x, layer, top), layer, LIMIT, x)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 100])
def test_any_number_of_rows_is_what_plain_torch_gives(rows: int) -> None:
    layer, x = drawn_layer(ODD), rows_of(rows, ODD)

    found = experts(route(x, layer, ODD.top), layer, LIMIT, x)

    close(found, reference(x, layer, ODD.top))
