"""The rate of reading is the best of all ways and all passes."""

from __future__ import annotations

import numpy as np
import pytest

from bench.bandwidth import Reader, compiled_loop


def test_at_least_three_ways_are_tried_and_the_best_counts() -> None:
    reader = Reader(threads=2, nbytes=1 << 20)

    reader.measure()
    first = dict(reader.best)
    reader.measure()

    assert {"torch sum", "numpy sum", "copy into the cache"} <= first.keys()
    assert all(reader.best[way] >= rate > 0 for way, rate in first.items())
    assert reader.gb_per_s == max(reader.best.values())


def test_the_compiled_loop_reads_every_word() -> None:
    loop = compiled_loop()
    if loop is None:
        pytest.fail("there is no C compiler here: install gcc or clang")
    words = np.arange(64 * 1000, dtype=np.uint64)

    assert loop(words) == words.sum()
