"""What a machine remembers of a store's epochs, across processes and crashes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gateway.store.epochs import NEVER, NO_MEMORY, EpochMemory, StateUnreadable
from gateway.store.owed import Owed, Settle


def content(directory: Path) -> object:
    return json.loads((directory / "epochs.json").read_bytes())


async def test_what_is_learnt_survives_the_process(tmp_path: Path) -> None:
    memory = EpochMemory.open(tmp_path, "redis://h:1/0")
    assert memory.remembered("acme") == NEVER
    memory.learn("acme", "g1")
    memory.learn("globex", "r2")
    assert memory.remembered("acme") == "g1"
    await memory.aclose()
    again = EpochMemory.open(tmp_path, "redis://h:1/0")
    assert (again.remembered("acme"), again.remembered("globex")) == ("g1", "r2")
    assert EpochMemory.open(tmp_path, "redis://other:1/0").remembered("acme") == NEVER


async def test_without_a_directory_there_is_no_telling() -> None:
    memory = EpochMemory.open(None, "memory")
    assert memory.remembered("acme") == NO_MEMORY
    memory.learn("acme", "r1")
    assert memory.remembered("acme") == "r1"
    await memory.aclose()


async def test_workers_of_one_machine_keep_one_file_together(tmp_path: Path) -> None:
    one, two = EpochMemory.open(tmp_path, "s"), EpochMemory.open(tmp_path, "s")
    one.learn("acme", "g1")
    two.learn("globex", "g2")
    await one.aclose()
    await two.aclose()
    assert content(tmp_path) == {
        "version": 1, "stores": {"s": {"epochs": {"acme": "g1", "globex": "g2"}, "owed": {}}},
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "epochs.json").stat().st_mode) == 0o600


async def test_debts_of_a_worker_that_is_gone_are_found_and_cleared_once_paid(tmp_path: Path) -> None:
    died = EpochMemory.open(tmp_path, "s")
    died.owe("acme")
    await died.aclose()
    next_ = EpochMemory.open(tmp_path, "s")
    assert next_.due == {"acme"}
    next_.paid(["acme"])
    assert next_.due == frozenset()
    await next_.aclose()
    assert EpochMemory.open(tmp_path, "s").due == frozenset()


async def test_a_debt_paid_by_its_own_worker_leaves_no_trace(tmp_path: Path) -> None:
    memory = EpochMemory.open(tmp_path, "s")
    memory.owe("acme")
    memory.owe("globex")
    await memory.aclose()
    memory.paid(["acme"])
    await memory.aclose()
    assert EpochMemory.open(tmp_path, "s").due == {"globex"}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 2}', b'{"stores": {"s": {"epoch": {}}}}'])
def test_a_damaged_file_stops_the_start(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "epochs.json").write_bytes(damage)
    with pytest.raises(StateUnreadable) as refused:
        EpochMemory.open(tmp_path, "s")
    assert str(refused.value) == (
        f"`{tmp_path / 'epochs.json'}` is damaged, so an emptied store could be taken for a new one; restore "
        "it, or delete it and run `douane store accept-epoch` once you know that no labels were lost"
    )


def test_a_directory_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateUnreadable, match=r"cannot be used \(Not a directory\); make it writable$"):
        EpochMemory.open(tmp_path / "file" / "state", "s")


def test_labels_owed_past_the_bound_renew_their_tenants_epoch() -> None:
    owed = Owed(marks_max=2)
    owed.note("acme", (b"a", b"b"), frozenset({"x"}))
    owed.note("acme", (b"a",), frozenset({"y"}))
    owed.note("globex", (b"c",), frozenset({"x"}))
    assert owed.labels["acme"] == {b"a": {"x", "y"}, b"b": {"x"}}
    assert owed.renew == {"globex"}


def test_what_could_not_be_paid_is_owed_again_with_what_came_meanwhile() -> None:
    owed = Owed()
    owed.note("acme", (b"a",), frozenset({"x"}))
    owed.settle(Settle("acme", "k", "r1", 1, 2))
    owed.renew.add("globex")
    taken = owed.take()
    assert not owed
    owed.note("acme", (b"a", b"b"), frozenset({"y"}))
    owed.settle(Settle("acme", "k", "r2", 3, 4))
    owed.give_back(taken)
    assert owed.labels == {"acme": {b"a": {"x", "y"}, b"b": {"y"}}}
    assert sorted(owed.settles) == ["r1", "r2"]
    assert owed.renew == {"globex"}
    assert owed.marks == 2
