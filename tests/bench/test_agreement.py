"""Two engines agree as far as their distributions do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.agreement import Agreement, agreement

HALVES = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], dtype=np.float32))


def test_the_same_logits_agree_whatever_is_added_to_all_of_a_row() -> None:
    found = agreement(HALVES, HALVES + np.float32(1000))

    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.same_top == 1.0
    assert agreement(HALVES, HALVES) == Agreement(0.0, 0.0, 1.0)


def test_divergence_is_the_references_from_the_other() -> None:
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]], dtype=np.float32))
    of_the_first_row = 0.5 * math.log(2) + 0.25 * math.log(0.5)

    found = agreement(HALVES, other)

    assert found.kl == pytest.approx(of_the_first_row / 2, rel=1e-5)  # two rows, and the second agrees
    assert found.same_top == 0.5
    assert found.mean_delta == pytest.approx(2 * math.log(2) / 6 / HALVES.std(), rel=1e-5)


def test_a_few_rows_that_went_another_way_do_not_decide() -> None:
    same = np.tile(HALVES, (6, 1))
    other = same.copy()
    other[:3] = other[:3, ::-1] * 5

    assert agreement(same, other).kl == pytest.approx(0, abs=1e-6)
    assert agreement(same, other).mean_delta > 0.1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \(1, 3\) cannot be held against \(2, 3\)"):
        agreement(HALVES, HALVES[:1])
    with pytest.raises(ValueError, match="some logits are no numbers"):
        agreement(HALVES, np.full_like(HALVES, np.nan))
