"""Tokens from the kernels are those of `draw`, whichever of the two a step takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from local_engine.ops.triton import OPS, sample
from local_engine.ops.triton.configs import Config
from local_engine.sampling import Draw, draw, empty_draw
from tests.local_engine.ops.triton.cases import random

VOCABULARY = 1003


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of a small vocabulary, the last of them not full."""
    monkeypatch.setattr(sample, "BLOCKS", (Config(1 << 30, {"BLOCK": 256}),))


def drawing(rows: int, seed: int = 0) -> Draw:
    """Numbers all over [0, 1), and temperatures from greedy to hot."""
    generator = torch.Generator().manual_seed(seed)
    d = empty_draw(rows, VOCABULARY, 1)
    d.uniform.copy_(torch.randint(0, 1 << 24, (rows,), generator=generator) / 2.0**24)
    d.temperature.copy_(torch.tensor([1.0, 0.0, 0.3, 5.0, 1e-9, 0.7])[torch.arange(rows) % 6])
    return d


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    """From flat to steep."""
    return random(rows, VOCABULARY, seed=seed) * torch.logspace(-1, 1.3, rows)[:, None]


def test_many_rows_draw_the_same_tokens() -> None:
    logits, d = logits_of(60), drawing(60)

    tokens = OPS.sample(logits, d).tokens

    assert (tokens.shape, tokens.dtype) == ((60,), torch.int64)
    assert tokens.tolist() == draw(logits, d).tokens.tolist()
    assert len(set(tokens.tolist())) > 20


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24], ids=["least", "most"])
def test_the_ends_of_the_numbers_draw_the_same_tokens(uniform: float) -> None:
    logits, d = logits_of(24), drawing(24)
    d.uniform.fill_(uniform)

    assert OPS.sample(logits, d).tokens.tolist() == draw(logits, d).tokens.tolist()


def test_of_equal_logits_greedy_takes_the_lowest_token_and_others_all() -> None:
    logits, d = torch.zeros(18, VOCABULARY), drawing(18)
    logits[:, :130] = -1.0

    tokens = OPS.sample(logits, d).tokens.tolist()

    assert tokens == draw(logits, d).tokens.tolist()
    assert set(tokens[1::6]) == {130}
    assert len(set(tokens[0::6])) == 3


def test_a_number_on_the_boundary_between_two_tokens_belongs_to_the_second() -> None:
    # Of 512 equal shares, these numbers reach exactly the third, and exactly the last of the first block.
    logits, d = torch.zeros(2, VOCABULARY), drawing(2)
    logits[:, 512:] = -torch.inf
    d.temperature.fill_(1.0)
    d.uniform.copy_(torch.tensor([3, 256]) / 512 - 2.0**-25)

    tokens = OPS.sample(logits, d).tokens.tolist()

    assert tokens == draw(logits, d).tokens.tolist() == [3, 256]


BAD = {"nan": torch.nan, "inf": torch.inf}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_rows_without_usable_logits_draw_none_and_their_neighbours_do(value: float) -> None:
    logits, d = logits_of(12), drawing(12)
    wanted = draw(logits, d).tokens.tolist()
    logits[3, 500], logits[4, 0], logits[7] = value, value, -torch.inf

    tokens = OPS.sample(logits, d).tokens.tolist()

    assert tokens == [-1 if row in (3, 4, 7) else token for row, token in enumerate(wanted)]
    assert tokens == draw(logits, d).tokens.tolist()


def test_a_grammar_masks_the_same_tokens() -> None:
    logits, d = logits_of(30), drawing(30)
    generator = torch.Generator().manual_seed(5)
    d.mask.copy_(torch.randint(-(1 << 31), 1 << 31, d.mask.shape, generator=generator))
    d.mask[8], d.mask[9] = 0, 0
    d.mask[9, 31] = 1 << 9
    logits[10, 40], d.mask[10, 1] = torch.nan, 0

    tokens = OPS.sample(logits, replace(d, masked=True)).tokens.tolist()

    assert tokens == draw(logits, replace(d, masked=True)).tokens.tolist()
    assert tokens[8:11] == [-1, 31 * 32 + 9, -1]


STAGES = {
    "filters": {"filtered": True},
    "penalties": {"penalised": True},
    "biases": {"biased": True},
    "logprobs": {"logprobs": 3},
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_every_other_stage_is_run_where_it_is_asked_for(stage: dict[str, object]) -> None:
    logits = logits_of(6)
    d = replace(drawing(6), **stage)  # type: ignore[arg-type]
    d.top_k.fill_(2)
    d.counts.fill_(1)
    d.presence.fill_(3.0)
    d.bias_ids[:, 0], d.bias[:, 0] = 77, 50.0

    found, wanted = OPS.sample(logits, d), draw(logits, d)

    assert found.tokens.tolist() == wanted.tokens.tolist()
    assert (found.top_ids is None) == (d.logprobs is None)
