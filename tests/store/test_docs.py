"""The numbers and names in `docs/store.md` are the code's."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.store import limits, memory, owed, wire
from gateway.store.accept import accept_epoch
from gateway.store.base import Entered
from gateway.store.epochs import FILE
from gateway.store.memory import MemoryStore
from tests.store.requests import SECOND_TURN, entry

TEXT = (Path(__file__).parents[2] / "docs" / "store.md").read_text("utf-8")


@pytest.mark.parametrize(
    "stated",
    [
        f"at most 50 ms ({wire.TIMEOUT_S * 1000:.0f}, and {wire.GRACE_S * 1000:.0f} of grace",
        f"after {limits.HELD_S} seconds",
        f"more than {owed.MARKS_MAX:,} of them",
        f"its bound of {memory.RECORDS_MAX:,} records",
        f"`{FILE}` lies in the state directory",
        f"`{accept_epoch.__module__}.{accept_epoch.__name__}(store, tenants)`",
        "60 to 65 seconds after it",
    ],
)
def test_the_page_states_what_the_code_does(stated: str) -> None:
    assert stated in TEXT
    assert limits.STEP_MS * (limits.STEPS - 1) == 60_000
    assert limits.STEP_MS * limits.STEPS == 65_000


async def test_accepting_answers_for_every_tenant_named() -> None:
    store = await MemoryStore.open()
    accepted = await accept_epoch(store, ["acme", "globex"])
    assert [epoch[0] for epoch in accepted.values()] == ["a", "a"]
    for tenant in accepted:
        assert await store.enter(entry(SECOND_TURN, tenant=tenant)) == Entered(
            frozenset(), False, True, None, None
        )
