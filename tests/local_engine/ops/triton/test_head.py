"""The head gives the reference's logits of the wanted rows."""

from __future__ import annotations

import pytest
import torch

from local_engine.model import Model
from local_engine.ops import ref
from local_engine.ops.triton import OPS, head
from local_engine.ops.triton.configs import Config
from tests.local_engine.ops.triton.cases import ROWS, model_of, random


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of("uneven")


@pytest.mark.parametrize("rows", [0, *ROWS])
def test_logits_are_the_references_for_any_choice_of_rows(model: Model, rows: int) -> None:
    x = random(150, model.config.hidden_size) * 2
    wanted = torch.randint(0, 150, (rows,), generator=torch.Generator().manual_seed(rows))

    logits = OPS.head(x, model, wanted)

    assert (logits.shape, logits.dtype) == ((rows, 301), torch.float32)
    torch.testing.assert_close(logits, ref.OPS.head(x, model, wanted), rtol=0, atol=2e-5)


def test_a_row_longer_than_a_tile_is_unembedded_in_several(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "FEW", (Config(7, {"ROWS": 8, "BLOCK": 64}),))
    x, wanted = random(4, model.config.hidden_size), torch.tensor([3, 0])

    logits = OPS.head(x, model, wanted)

    torch.testing.assert_close(logits, ref.OPS.head(x, model, wanted), rtol=0, atol=2e-5)
