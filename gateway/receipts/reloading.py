"""The signer of a running gateway: takes another key from its files without a restart."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from gateway import logs
from gateway.audit.base import AuditSink
from gateway.audit.checkpoint import Checkpoint
from gateway.audit.records import SigningKeyChanged
from gateway.errors import RecordUnavailable
from gateway.receipts.jwk import PublicKey
from gateway.receipts.keys import KeyLock, SigningKeyInvalid, load_signer
from gateway.receipts.receipt import Receipt
from gateway.receipts.rotation import RECEIPT_KEY, RETIRED_KEYS

Fingerprint = tuple[tuple[str, int, int, int, int], ...]


class ReloadingSigner:
    """Signs with the key of `state_dir`, and publishes it beside the retired ones there.

    A swap is one assignment: a receipt is signed with the one key or with the other, and both are published.
    Raises SigningKeyInvalid when it is made over keys that cannot be used.
    """

    def __init__(self, state_dir: Path, lock: KeyLock | None = None) -> None:
        self._lock = lock
        self._key, self._retired = state_dir / RECEIPT_KEY, state_dir / RETIRED_KEYS
        self._seen = self._fingerprint()
        self._current = load_signer(self._key, self._retired, lock)
        self._one_at_a_time = asyncio.Lock()

    @property
    def kid(self) -> str:
        return self._current.kid

    @property
    def public(self) -> PublicKey:
        return self._current.public

    def sign(self, receipt: Receipt) -> str:
        """See `ReceiptSigner.sign`."""
        return self._current.sign(receipt)

    def sign_checkpoint(self, checkpoint: Checkpoint) -> str:
        """See `ReceiptSigner.sign_checkpoint`."""
        return self._current.sign_checkpoint(checkpoint)

    def jwks(self) -> dict[str, Any]:
        """See `ReceiptSigner.jwks`."""
        return self._current.jwks()

    async def reload(self, audit: AuditSink) -> bool:
        """Reads the files again; True when another key signs from now on, which `audit` then holds.

        Keys that cannot be used are logged, and those in use stay.
        """
        async with self._one_at_a_time:
            self._seen = self._fingerprint()
            try:
                # Elsewhere: one that is locked waits for KMS.
                following = await asyncio.to_thread(load_signer, self._key, self._retired, self._lock)
            except SigningKeyInvalid as invalid:  # names files and what is wrong, and nothing of a key
                logs.event("signing_key_refused", logging.ERROR, problems=str(invalid), kept=self.kid)
                return False
            before = self._current
            if set(following.published) == set(before.published) and following.kid == before.kid:
                return False
            if following.kid == before.kid:
                self._current = following
                logs.event("retired_keys_changed", kid=following.kid)
                return False
            # On record before the first receipt that it signs: one that it had signed before was forged.
            changed = SigningKeyChanged(before.kid, following.kid)
            try:
                await audit.append(changed.kind, changed.fields())
            except RecordUnavailable:
                logs.event("audit_unavailable", logging.ERROR, record=changed.kind)
            self._current = following
            logs.event("signing_key_changed", before=before.kid, kid=following.kid)
            return True

    async def watch(self, poll_s: float, audit: AuditSink) -> None:
        """Reloads when a file of a key has changed; runs until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            if self._fingerprint() != self._seen:
                await self.reload(audit)

    def _fingerprint(self) -> Fingerprint:
        """Name, time, size, inode and mode of the files, through symlinks; of those that are there."""
        found = []
        for path in (self._key, self._retired, *sorted(self._retired.glob("*.pem"))):
            try:
                stat = path.stat()
            except OSError:
                continue
            found.append((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode))
        return tuple(found)
