"""Destroyed keys, as running workers learn of them: dropped from memory within seconds, and on the record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from gateway import logs
from gateway.audit.base import AuditSink
from gateway.audit.records import TenantKeyDropped, TenantShredded
from gateway.errors import RecordUnavailable
from gateway.keys.keyring import TenantKeys
from gateway.keys.shelf import FileShelf, Fingerprint, Kept, Shredded
from gateway.keys.wrapping import KeyFileInvalid

POLL_S: Final = 5.0


class Shredding:
    """Watches the shelf for keys that were destroyed, changed or taken away.

    `forget` clears what this process and its store know of a tenant under its name.
    """

    def __init__(
        self, keys: TenantKeys, shelf: FileShelf, audit: AuditSink, forget: Callable[[str], Awaitable[None]]
    ) -> None:
        self._keys = keys
        self._shelf = shelf
        self._audit = audit
        self._forget = forget
        self._seen: Fingerprint | None = None

    async def look(self) -> None:
        """Drops every key that is no longer the one on the shelf; records what nobody has recorded yet."""
        seen = await asyncio.to_thread(self._shelf.fingerprint)
        if seen == self._seen:
            return
        entries = await asyncio.to_thread(self._shelf.readable)
        for tenant, key_id in self._keys.held().items():
            entry = entries.get(tenant)
            if not isinstance(entry, Kept) or entry.key_id != key_id:
                self._keys.drop(tenant)
                await self._forget(tenant)
                await self._record(TenantKeyDropped(tenant, key_id))
        for entry in entries.values():
            if isinstance(entry, Shredded) and not entry.recorded:
                claimed = await asyncio.to_thread(self._shelf.claim_record, entry.tenant)
                if claimed is not None:
                    await self._forget(claimed.tenant)
                    await self._record(TenantShredded(claimed.tenant, claimed.key_id, claimed.shredded_at))
        self._seen = seen

    async def watch(self, poll_s: float = POLL_S) -> None:
        """Looks again and again; runs until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                await self.look()
            except KeyFileInvalid as error:
                logs.event("keys_unreadable", logging.ERROR, fault=str(error))

    async def _record(self, record: TenantKeyDropped | TenantShredded) -> None:
        try:
            await self._audit.append(record.kind, record.fields())
        except RecordUnavailable:
            logs.event("audit_unavailable", logging.ERROR, record=record.kind)
