"""Paged attention and the projection behind it give the reference's result, and hear only what is a row's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from local_engine.batch import Batch, LayerKV
from local_engine.model import Model
from local_engine.ops import ref
from local_engine.ops.triton import OPS, attention
from local_engine.ops.triton.configs import Config
from local_engine.ops.triton.heard import Heard
from tests.local_engine.ops.test_ops import padded
from tests.local_engine.ops.triton.cases import ROWS, batch_of, model_of, pool_of, random

ATOL = 2e-5
WINDOWS = pytest.mark.parametrize("window", [None, 21, 128])
AGES = (0, 1, 15, 16, 19, 20, 21, 22, 126, 127, 128, 129, 130, 255, 256, 300)
"""Positions around the ends of blocks, windows and tiles."""


@pytest.fixture(scope="module")
def odd() -> Model:
    return model_of("uneven")


@pytest.fixture(scope="module")
def grouped() -> Model:
    return model_of("grouped")


def whole(heard: Heard) -> torch.Tensor:
    """The parts put together: [T, N, D]."""
    if heard.weights is None:
        return heard.values[0]
    shares = torch.softmax(heard.weights.double() * 0.6931471805599453, dim=0)
    return (heard.values * shares[..., None]).sum(0).float()


def both(
    model: Model, batch: Batch, kv: LayerKV, window: int | None, sinks: torch.Tensor | None = None
) -> tuple[Heard, torch.Tensor]:
    """What is heard, from the kernels and from the reference."""
    config = model.config
    q = random(batch.tokens.shape[0], config.num_attention_heads, config.head_dim, seed=9)
    sinks = model.layers[0].sinks if sinks is None else sinks
    group = batch.full if window is None else batch.window
    given = (q, kv, group, batch, sinks, window)
    return OPS.attend(*given), ref.OPS.attend(*given)


def decoding(rows: int) -> list[tuple[int, int]]:
    """Runs of one row each at various positions; the first is the oldest."""
    return [(AGES[-1 - n % len(AGES)], 1) for n in range(rows)]


@WINDOWS
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9, 17, 33])
def test_single_rows_hear_what_the_reference_hears(odd: Model, rows: int, window: int | None) -> None:
    batch, blocks = batch_of(decoding(rows), window)

    heard, wanted = both(odd, batch, pool_of(odd, blocks), window)

    parts = {1: 16, 2: 8, 3: 4, 8: 2}.get(rows, 1)
    assert heard.values.shape[0] == (parts if window is None else 1)
    torch.testing.assert_close(whole(heard), wanted, rtol=0, atol=ATOL)


@pytest.mark.parametrize("position", AGES)
def test_every_position_hears_the_same_in_parts_of_few_keys(
    grouped: Model, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "FULL", (Config(1, {"PARTS": 16, "KEYS": 16}),))
    batch, blocks = batch_of([(position, 1)], None)

    heard, wanted = both(grouped, batch, pool_of(grouped, blocks), None)

    assert heard.weights is not None
    keys = -(-(position // 16 + 1) // 16) * 16
    assert int((heard.weights > -torch.inf).all(dim=(1, 2)).sum()) == position // keys + 1
    torch.testing.assert_close(whole(heard), wanted, rtol=0, atol=ATOL)


def test_the_captured_step_of_a_batch_is_that_of_its_runs(odd: Model) -> None:
    batch, blocks = batch_of(decoding(5), 21)
    kv = pool_of(odd, blocks)

    for window in (None, 21):
        heard, wanted = both(odd, padded(batch, 8), kv, window)

        assert whole(heard).isfinite().all()
        torch.testing.assert_close(whole(heard)[:5], wanted[:5], rtol=0, atol=ATOL)


PROMPTS = {
    "one prompt": [(0, 70)],
    "on a cache": [(100, 37)],
    "two rows": [(31, 2)],
    "prompts and single rows": [(140, 1), (0, 33), (7, 1), (60, 1), (15, 18), (0, 1), (130, 2), (20, 1)],
    "ends in the middle of tiles": [(3, 15), (0, 2), (16, 16), (0, 14), (129, 1)],
}


@WINDOWS
@pytest.mark.parametrize("runs", PROMPTS.values(), ids=PROMPTS.keys())
def test_prompts_hear_what_the_reference_hears(
    odd: Model, runs: list[tuple[int, int]], window: int | None
) -> None:
    batch, blocks = batch_of(runs, window)

    heard, wanted = both(odd, batch, pool_of(odd, blocks), window)

    assert heard.weights is None
    torch.testing.assert_close(whole(heard), wanted, rtol=0, atol=ATOL)


@dataclass
class Stub:
    """Stands for a kernel: every value becomes 7, or stays what it is."""

    fills: bool

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """What a launch calls."""
        return lambda *given, **_: given[8].fill_(7.0) if self.fills else None


def test_no_kernel_goes_through_the_keys_of_the_others_rows(
    odd: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, blocks = batch_of(PROMPTS["prompts and single rows"], None)
    kv = pool_of(odd, blocks)
    single = torch.zeros(batch.tokens.shape[0], dtype=torch.bool)
    single[[run.row for run in batch.runs if run.rows == 1]] = True

    def found(name: str, stub: Stub) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(attention, name, stub)
            return whole(both(odd, batch, kv, None)[0])

    assert (found("prompt_rows", Stub(fills=True))[~single] == 7).all()
    # Without keys there is nothing but the sink.
    assert (found("single_rows", Stub(fills=False))[single] == 0).all()


def test_eight_heads_share_keys_in_a_prompt_too(grouped: Model) -> None:
    batch, blocks = batch_of([(90, 45), (200, 1)], 128)

    for window in (None, 128):
        heard, wanted = both(grouped, batch, pool_of(grouped, blocks), window)
        torch.testing.assert_close(whole(heard), wanted, rtol=0, atol=ATOL)


SINKS = {"loud": 1000.0, "faint": -1000.0, "absent": -torch.inf}


@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS.keys())
@pytest.mark.parametrize("runs", [[(150, 1)], [(150, 1)] * 9, [(30, 40)]], ids=["one", "nine", "prompt"])
def test_a_sink_of_any_size_is_part_of_the_maximum(
    odd: Model, sink: float, runs: list[tuple[int, int]]
) -> None:
    batch, blocks = batch_of(runs, 21)
    sinks = torch.full((odd.config.num_attention_heads,), sink)

    for window in (None, 21):
        heard, wanted = both(odd, batch, pool_of(odd, blocks), window, sinks)
        torch.testing.assert_close(whole(heard), wanted, rtol=0, atol=ATOL)


@WINDOWS
@pytest.mark.parametrize("runs", [[(140, 1)], [(140, 1), (3, 1), (130, 1)], [(129, 14), (4, 1), (0, 19)]])
def test_nothing_that_a_row_does_not_see_is_heard(
    odd: Model, runs: list[tuple[int, int]], window: int | None
) -> None:
    batch, blocks = batch_of(runs, window)
    kv = pool_of(odd, blocks)
    _, wanted = both(odd, batch, kv, window)
    group = batch.full if window is None else batch.window
    seen = torch.zeros(blocks * 16, dtype=torch.bool)
    for run in batch.runs:
        first = 0 if window is None else max(0, run.position - window + 1)
        for position in range(first, run.position + run.rows):
            column = position // 16 - int(group.base[run.sequence])
            seen[int(group.tables[run.sequence, column]) * 16 + position % 16] = True
    for part in (kv.keys, kv.values):
        part.view(-1, *part.shape[2:])[~seen] = torch.nan

    heard, _ = both(odd, batch, kv, window)

    torch.testing.assert_close(whole(heard), wanted, rtol=0, atol=ATOL)


@pytest.mark.parametrize("runs", [[(140, 1), (3, 1), (130, 1)], [(100, 14), (4, 1), (0, 19)]])
def test_a_row_gone_bad_is_bad_and_its_neighbours_are_not(odd: Model, runs: list[tuple[int, int]]) -> None:
    batch, blocks = batch_of(runs, None)
    kv = pool_of(odd, blocks)
    _, wanted = both(odd, batch, kv, None)
    bad = batch.runs[0]
    kv.values[batch.full.tables[bad.sequence, 0]] = torch.nan
    kv.keys[batch.full.tables[bad.sequence, 0]] = torch.nan

    heard, _ = both(odd, batch, kv, None)

    assert whole(heard)[: bad.rows].isnan().all()
    torch.testing.assert_close(whole(heard)[bad.rows :], wanted[bad.rows :], rtol=0, atol=ATOL)


@pytest.mark.parametrize("name", ["uneven", "grouped"])
@pytest.mark.parametrize("rows", ROWS)
def test_the_projection_puts_parts_together_and_adds_bias_and_residual(name: str, rows: int) -> None:
    model = model_of(name)
    config, layer = model.config, model.layers[0]
    x = random(rows, config.hidden_size)
    # As attention has them: 8 parts for two rows, of which those behind a short context are empty.
    parts = {1: 16, 2: 8}.get(rows, 1 if rows > 8 else 3)
    values = random(parts, rows, config.num_attention_heads, config.head_dim, seed=2)
    weights = None
    if parts > 1:
        weights = random(parts, rows, config.num_attention_heads, seed=3) * 5
        weights[1:, 0], values[1:, 0] = -torch.inf, 0
        weights[-1], values[-1] = -torch.inf, 0
    heard = Heard(values, weights)

    found = OPS.out(heard, layer, x)

    torch.testing.assert_close(found, ref.OPS.out(whole(heard), layer, x), rtol=0, atol=ATOL)


@pytest.mark.parametrize("rows", [2, 8])
def test_a_part_gone_bad_is_heard_in_its_own_row_only(odd: Model, rows: int) -> None:
    config, layer = odd.config, odd.layers[0]
    x = random(rows, config.hidden_size)
    values = random(4, rows, config.num_attention_heads, config.head_dim)
    weights = random(4, rows, config.num_attention_heads, seed=1)
    values[2, 1], weights[2, 1] = torch.nan, torch.nan
    heard = Heard(values, weights)

    found = OPS.out(heard, layer, x)

    assert found[1].isnan().all()
    good = torch.arange(rows) != 1
    torch.testing.assert_close(found[good], ref.OPS.out(whole(heard), layer, x)[good], rtol=0, atol=ATOL)
