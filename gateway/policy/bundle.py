"""A loaded, checked and compiled bundle: an immutable value that is swapped whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.detect.rules import DetectorRules
from gateway.facts import Caller
from gateway.labels import Vocabulary
from gateway.places import Place
from gateway.policy.compile import Table
from gateway.policy.geography import Geography
from gateway.policy.routes import Routes
from gateway.policy.rules import Rule


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of the bundle. `caller` is what a key without wishes of its own may do."""

    id: str
    zone: str
    caller: Caller


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """One revision of the policy.

    `revision` is `sha256:` and the hex hash over the names and bytes of every file; `serial` is written by
    hand and only grows. `keys` maps the SHA-256 of an API key, in hex, to tenant id and key id. Messages of
    fewer than `marked_from_bytes` bytes carry no labels into other conversations; 0 means that all do.
    `detectors` is None where nothing is to be detected.
    """

    revision: str
    serial: int
    vocabulary: Vocabulary
    geography: Geography
    places: Mapping[str, Place]
    tenants: Mapping[str, Tenant]
    keys: Mapping[str, tuple[str, str]]
    callers: Mapping[str, Caller]
    rules: tuple[Rule, ...]
    routes: Routes
    table: Table
    marked_from_bytes: int = 0
    detectors: DetectorRules | None = None

    def caller(self, key_sha256_hex: str) -> Caller | None:
        """The caller with this key hash (64 lower-case hex digits); None when nobody has it."""
        return self.callers.get(key_sha256_hex)

    def tenant_caller(self, tenant_id: str, key_id: str) -> Caller:
        """A caller with the tenant's own rights, for a key that was made at run time. Raises KeyError."""
        return replace(self.tenants[tenant_id].caller, key_id=key_id)
