"""The share of each limit that a worker grants while the store is gone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.facts import Limits
from gateway.store.limits import Caps, caps_of, share_of


@pytest.mark.parametrize(
    ("replicas", "share"),
    [
        (1, Caps(9, 10, 11, 1)),
        (3, Caps(3, 4, 3, 1)),
        (10, Caps(1, 1, 1, 1)),
        (12, Caps(1, 1, 0, 1)),
    ],
)
def test_counts_are_shared_out_rounded_up_and_money_rounded_down(replicas: int, share: Caps) -> None:
    assert share_of(Caps(9, 10, 11, 1), replicas) == share


def test_a_limit_of_nothing_stays_nothing_and_no_limit_stays_none() -> None:
    assert share_of(Caps(0, 0, 0, 0), 3) == Caps(0, 0, 0, 0)
    assert share_of(Caps(None, None, None, None), 3) == Caps(None, None, None, None)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(1, 1000))
def test_all_shares_together_keep_the_stated_bound(limit: int, replicas: int) -> None:
    share = share_of(Caps(limit, None, limit, None), replicas)
    assert share.requests is not None
    assert share.usd_nano is not None
    assert limit <= replicas * share.requests <= limit + replicas - 1
    assert replicas * share.usd_nano <= limit


def test_limits_in_dollars_become_whole_billionths() -> None:
    assert caps_of(Limits(1, 2, 0.1, 3)) == Caps(1, 2, 100_000_000, 3)
    assert caps_of(Limits()) == Caps(None, None, None, None)
    assert not caps_of(Limits()).any
    assert caps_of(Limits(requests_per_minute=1)).any
    assert not caps_of(Limits(requests_per_minute=1)).holds
