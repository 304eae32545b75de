"""An operator's word that what a store has lost stays lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class AcceptingStore(Protocol):
    async def accept_epoch(self, tenant: str) -> str: ...


async def accept_epoch(store: AcceptingStore, tenants: Iterable[str]) -> dict[str, str]:
    """Begins an accepted epoch for each tenant; returns the new epoch by tenant.

    From then on the store answers again for conversations that it has no record of, taking them to have
    carried nothing. Right for a new Redis, or once it is known that no labelled conversation of before will
    go on. Labels that are on record stay. Safe to repeat; running gateways need no restart.
    Raises `gateway.store.wire.StoreGone` when Redis cannot be reached.
    """
    return {tenant: await store.accept_epoch(tenant) for tenant in tenants}
