"""The time of other processes is all that is not idle and not one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.quiet import TICK_S, Watch


def columns(*ticks: int) -> str:
    """user, nice, system, idle, iowait, irq, softirq, steal; guests, behind them, are in `user` already."""
    return f"cpu  {' '.join(map(str, ticks))} 7 7\ncpu0 1 2 3\n"


class Machine:
    """Two processors whose clocks are told."""

    def __init__(self, folder: Path) -> None:
        self.stat, self.own_s, self.at_s = folder / "stat", 5.0, 100.0
        self.stat.write_text(columns(1000, 10, 300, 9000, 40, 5, 6, 70))

    def watch(self) -> Watch:
        return Watch(self.stat, own_s=lambda: self.own_s, clock=lambda: self.at_s, cpus=2)


@pytest.mark.parametrize(
    ("after", "own_ticks", "share"),
    [
        # In 100 ticks of two processors: all of it was one's own,
        (columns(1180, 10, 320, 9000, 40, 5, 6, 70), 200, 0.0),
        # one processor was idle or waited for a disk,
        (columns(1100, 10, 300, 9060, 80, 5, 6, 70), 100, 0.0),
        # others had 20 ticks of user, nice, system and interrupt time,
        (columns(1185, 15, 305, 9000, 40, 8, 8, 70), 180, 0.1),
        # or the hypervisor took them.
        (columns(1150, 10, 300, 9020, 40, 5, 6, 100), 150, 0.15),
        # Ticks are counted when they end: less than one's own is nothing.
        (columns(1190, 10, 300, 9010, 40, 5, 6, 70), 200, 0.0),
    ],
)
def test_the_share_of_others(tmp_path: Path, after: str, own_ticks: int, share: float) -> None:
    machine = Machine(tmp_path)
    watch = machine.watch()

    machine.stat.write_text(after)
    machine.own_s += own_ticks * TICK_S
    machine.at_s += 100 * TICK_S

    assert watch.others() == pytest.approx(share)


def test_a_process_that_works_alone_sees_this_machine_in_its_own_units() -> None:
    watch = Watch()
    total = sum(n * n for n in range(300_000))

    assert total > 0
    assert 0 <= watch.others() <= 1.1
