"""The reference model's own promises: caching, chunking and packing change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from local_engine.checkpoint import open_checkpoint
from local_engine.reference import ReferenceModel, attend

TOKENS = torch.randint(0, 512, (200,), generator=torch.Generator().manual_seed(9)).tolist()


@pytest.fixture(scope="module")
def model(tiny: dict[str, Path]) -> ReferenceModel:
    return ReferenceModel(open_checkpoint(tiny["original"]), torch.float32)


@pytest.fixture(scope="module")
def at_once(model: ReferenceModel) -> torch.Tensor:
    """Logits [T, V] of one prefill."""
    return model.forward(TOKENS, model.new_cache())


@pytest.mark.parametrize("chunk", [1, 7, 64, 199], ids=lambda n: f"{n} at a time")
def test_feeding_tokens_in_pieces_gives_the_logits_of_one_prefill(
    model: ReferenceModel, at_once: torch.Tensor, chunk: int
) -> None:
    cache = model.new_cache()
    pieces = [model.forward(TOKENS[n : n + chunk], cache) for n in range(0, len(TOKENS), chunk)]

    assert cache.length == len(TOKENS)
    torch.testing.assert_close(torch.cat(pieces), at_once, rtol=0, atol=2e-5)


def test_asking_for_the_last_row_only_gives_that_row(model: ReferenceModel, at_once: torch.Tensor) -> None:
    last = model.forward(TOKENS, model.new_cache(), last_only=True)

    torch.testing.assert_close(last, at_once[-1:], rtol=0, atol=2e-5)


def test_two_sequences_do_not_touch_each_other(model: ReferenceModel, at_once: torch.Tensor) -> None:
    first, second = model.new_cache(), model.new_cache()
    model.forward(TOKENS[:100], first)
    model.forward(TOKENS[50:150], second)

    torch.testing.assert_close(model.forward(TOKENS[100:], first), at_once[100:], rtol=0, atol=2e-5)


def test_experts_decoded_when_used_are_those_decoded_at_load(
    tiny: dict[str, Path], at_once: torch.Tensor
) -> None:
    packed = ReferenceModel(open_checkpoint(tiny["original"]), torch.float32, decoded_experts_bytes=0)

    assert packed.layers[0].mlp1.decoded is None
    assert torch.equal(packed.forward(TOKENS, packed.new_cache()), at_once)


def test_a_huge_sink_silences_attention_and_does_not_overflow() -> None:
    q = k = v = torch.ones(3, 2, 4, dtype=torch.bfloat16)

    heard = attend(q, k, v, torch.full((2,), 1e4, dtype=torch.bfloat16), None)

    assert torch.equal(heard, torch.zeros(3, 2, 4, dtype=torch.bfloat16))


def test_a_window_of_one_hears_only_itself() -> None:
    v = torch.arange(5.0).reshape(5, 1, 1).expand(5, 1, 2).contiguous()
    q = k = torch.ones(5, 1, 2)

    heard = attend(q, k, v, torch.full((1,), -torch.inf), 1)

    assert torch.equal(heard, v)
