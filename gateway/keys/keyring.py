"""What the gateway asks of keys. Each tenant has a random data key of its own.

Every stored value is sealed with AES-256-GCM under its tenant's key, and every digest that leaves the
process is keyed by the tenant: equal prompts of two tenants look unrelated, a stolen store is noise, and so
is all that was ever kept of a tenant once its data key is destroyed.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag

from gateway.audit.chain import time_text
from gateway.clock import Clock, SystemClock
from gateway.errors import KeysUnavailable, TenantErased
from gateway.hidden import HiddenBytes
from gateway.keys.derived import KEY_BYTES, DerivedKeys, key_id_of
from gateway.keys.shelf import Kept, MemoryShelf, Shelf, Shredded
from gateway.keys.wrapping import KeyFileInvalid, MasterKey, Unwrappable, Wrapping, WrappingUnavailable

NONCE_BYTES: Final = 12
FORMAT: Final = b"\x02"


class Unsealable(ValueError):
    """A sealed value that this key, or this additional data, does not open. Never says what was inside."""


class Keyring(Protocol):
    """What the gateway asks of keys. Each raises `TenantErased` for a tenant whose key was destroyed, and
    `KeysUnavailable` where the key cannot be had now."""

    def seal(self, tenant: str, aad: bytes, plaintext: bytes) -> bytes:
        """Encrypts; opens again only with the same tenant and the same `aad`."""
        ...

    def open_(self, tenant: str, aad: bytes, sealed: bytes) -> bytes:
        """The plaintext. Raises `Unsealable`."""
        ...

    def commit(self, tenant: str, data: bytes) -> str:
        """A digest of `data` that only this tenant's key can make: 64 hex characters."""
        ...

    def salt(self, tenant: str) -> str:
        """The tenant's salt of prefix caches: 32 hex characters, the same wherever its key is."""
        ...


class TenantKeys:
    """A `Keyring` over a shelf of wrapped data keys; a tenant's is made when it is first needed.

    Nonces are random: below 2³² sealed values a tenant, the chance of one repeated nonce is under 2⁻³².
    """

    def __init__(self, shelf: Shelf, wrapping: Wrapping, clock: Clock | None = None) -> None:
        self._shelf = shelf
        self._wrapping = wrapping
        self._clock = clock or SystemClock()
        self._derived: dict[str, DerivedKeys] = {}  # grows with the bundle's tenants, not with requests

    @classmethod
    def apart(cls, master: bytes) -> TenantKeys:
        """Keys that are gone with the process: for tests, and for nothing else."""
        return cls(MemoryShelf(), MasterKey(master))

    async def ready(self, tenant: str, forget: Callable[[str], Awaitable[None]]) -> None:
        """Has the tenant's key at hand, so that nothing that follows waits for a disk or a service.

        `forget` is called before a tenant gets a new key: what a store knows of it under an earlier one can
        be found no more. Raises `TenantErased` and `KeysUnavailable`.
        """
        if tenant in self._derived:
            return
        if await asyncio.to_thread(self._find, tenant) is None:
            await forget(tenant)
        await asyncio.to_thread(self._keys, tenant)

    def held(self) -> dict[str, str]:
        """Tenant -> key id, of the keys that this process holds."""
        return {tenant: keys.key_id for tenant, keys in tuple(self._derived.items())}

    def drop(self, tenant: str) -> None:
        """Forgets the tenant's key; the next use looks for it again."""
        self._derived.pop(tenant, None)

    def seal(self, tenant: str, aad: bytes, plaintext: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._keys(tenant).cipher.encrypt(nonce, plaintext, FORMAT + aad)

    def open_(self, tenant: str, aad: bytes, sealed: bytes) -> bytes:
        if sealed[:1] != FORMAT or len(sealed) < 1 + NONCE_BYTES:
            raise Unsealable("the sealed value has an unknown format")
        nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._keys(tenant).cipher.decrypt(nonce, ciphertext, FORMAT + aad)
        except InvalidTag:
            raise Unsealable("the sealed value does not open with this tenant's key and name") from None

    def commit(self, tenant: str, data: bytes) -> str:
        digest = self._keys(tenant).commitment.copy()
        digest.update(data)
        return digest.hexdigest()

    def salt(self, tenant: str) -> str:
        return self._keys(tenant).salt

    def __repr__(self) -> str:
        return "TenantKeys(…)"  # no key must reach a log by way of a traceback

    def _keys(self, tenant: str) -> DerivedKeys:
        keys = self._derived.get(tenant)
        if keys is None:
            found = self._find(tenant) or self._make(tenant)
            keys = self._derived[tenant] = self._opened(found)
        return keys

    def _find(self, tenant: str) -> Kept | None:
        try:
            found = self._shelf.find(tenant)
        except KeyFileInvalid as error:
            raise unavailable(error) from error
        return require_kept(found)

    def _make(self, tenant: str) -> Kept:
        data_key = HiddenBytes(os.urandom(KEY_BYTES))
        try:
            wrapped = self._wrapping.wrap(tenant, data_key)
            kept = self._shelf.keep(
                Kept(
                    tenant=tenant,
                    key_id=key_id_of(data_key),
                    wrapped_by=self._wrapping.name,
                    wrapped=base64.b64encode(wrapped).decode(),
                    made_at=time_text(self._clock.now()),
                )
            )
        except (KeyFileInvalid, WrappingUnavailable) as error:
            raise unavailable(error) from error
        found = require_kept(kept)
        assert found is not None
        return found

    def _opened(self, kept: Kept) -> DerivedKeys:
        try:
            if kept.wrapped_by != self._wrapping.name:
                raise Unwrappable(
                    f"the key of tenant `{kept.tenant}` was wrapped by `{kept.wrapped_by}`, and this gateway "
                    f"unwraps by `{self._wrapping.name}`"
                )
            return DerivedKeys.of(self._wrapping.unwrap(kept.tenant, kept.data), kept.tenant)
        except (Unwrappable, WrappingUnavailable) as error:
            raise unavailable(error) from error


def require_kept(entry: Kept | Shredded | None) -> Kept | None:
    """Raises `TenantErased`."""
    if isinstance(entry, Shredded):
        raise TenantErased(
            "this tenant's key was destroyed, and nothing of it is processed; "
            "an operator can begin anew for it with `douane tenant renew`"
        )
    return entry


def unavailable(cause: Exception) -> KeysUnavailable:
    """What the caller reads; the cause, which names files and keys, is for the operator's log."""
    error = KeysUnavailable("the key of this tenant cannot be had now; try again later", retry_after_s=5)
    error.__cause__ = cause
    return error
