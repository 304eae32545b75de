"""How far a host's clock is from this machine's, told by the `Date` of its answers.

AWS refuses a signature whose time is five minutes off. What is measured here moves the time that requests
are signed with and nothing else: receipts, audit and logs keep the time of this machine, right or wrong.

A `Date` has whole seconds and was written between the sending of a request and the coming of its answer. So
an answer does not tell the skew but bounds it: an answer that came at `t` after `e` seconds and says `d`
leaves everything from `d - t` to `d - t + e + 1`. While what is corrected by already fits, nothing changes;
else the correction goes back to none if none will do, and otherwise to the nearest bound. Slow answers, a
busy event loop and rounding therefore never look like a wrong clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from gateway import logs
from gateway.metrics import Metrics

TRUSTED_FROM_S: Final = 2.0  # less is the way, the rounding, or no matter
KEPT_WITHIN_S: Final = 1.25  # two quick answers about one skew bound it this differently, and no more
BELIEVED_UP_TO_S: Final = 86_400.0  # more is no clock that runs wrong, but an answer that is
DATE_BYTES_MAX: Final = 64


def ignore(region: str, skew_s: float) -> None:
    """Tells nobody."""


@dataclass(slots=True)
class Skew:
    """The measured skew of one host. `correction_s` is what to add to this machine's time; 0 within bounds.

    `changed` hears of each change with the region and the new correction.
    """

    region: str
    changed: Callable[[str, float], None] = ignore
    correction_s: float = 0.0
    _date: str = ""  # the last one, whose parsing is the dearest part
    _date_s: float | None = None

    def corrected(self, now: datetime) -> datetime:
        """The time to sign with."""
        return now + timedelta(seconds=self.correction_s) if self.correction_s else now

    def observe(self, date: str | None, received: datetime, elapsed_s: float) -> None:
        """Learns from one answer: its `Date`, when it came by this machine's clock, and how long after the
        request (by a clock that only grows). What is no date is ignored."""
        date_s = self._parsed(date)
        if date_s is None:
            return
        low_s = date_s - received.timestamp()
        high_s = low_s + max(elapsed_s, 0.0) + 1.0
        found_s = nearest(self.correction_s, low_s, high_s)
        if found_s == self.correction_s or abs(found_s) > BELIEVED_UP_TO_S:
            return
        self.correction_s = found_s
        self.changed(self.region, found_s)

    def _parsed(self, date: str | None) -> float | None:
        if date is None or len(date) > DATE_BYTES_MAX:
            return None
        if date != self._date:
            self._date, self._date_s = date, seconds_of(date)
        return self._date_s


def seconds_of(date: str) -> float | None:
    """Seconds since 1970 of an HTTP date (RFC 9110), which is in GMT; None for anything else."""
    try:
        return parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def nearest(current_s: float, low_s: float, high_s: float) -> float:
    """The correction after an answer that leaves everything from `low_s` to `high_s`. Pure."""
    if current_s and low_s - KEPT_WITHIN_S <= current_s <= high_s + KEPT_WITHIN_S:
        return current_s
    if low_s - TRUSTED_FROM_S <= 0.0 <= high_s + TRUSTED_FROM_S:
        return 0.0
    return min(max(current_s, low_s), high_s)


@dataclass(slots=True)
class Skews:
    """The skews of all hosts that requests are signed for; they outlive a change of the bundle.

    A change is logged once and shown by `douane_clock_skew_seconds`.
    """

    metrics: Metrics
    _of: dict[str, Skew] = field(default_factory=dict)  # by host: as many as the bundle and settings name

    def of(self, host: str, region: str) -> Skew:
        """The skew of this host, which stands in `region`."""
        skew = self._of.get(host)
        if skew is None:
            skew = self._of[host] = Skew(region, self._changed)
            self.metrics.clock_skew.labels(region).set(0.0)
            self.metrics.clock_retries.labels(region)
        return skew

    def corrections_s(self) -> dict[str, float]:
        """What is corrected by, by region; nothing for a host whose clock is as ours."""
        found = {skew.region: round(skew.correction_s, 1) for skew in self._of.values() if skew.correction_s}
        return dict(sorted(found.items()))

    def retried(self, region: str) -> None:
        """Counts a call that was signed anew because its first time was refused."""
        self.metrics.clock_retries.labels(region).inc()

    def _changed(self, region: str, skew_s: float) -> None:
        self.metrics.clock_skew.labels(region).set(skew_s)
        level = logging.WARNING if skew_s else logging.INFO
        logs.event("clock_skew", level, region=region, skew_s=round(skew_s, 1))
