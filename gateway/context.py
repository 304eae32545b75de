"""Everything that a request needs from outside, as one value; opened and closed in `opening.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.audit.base import AuditSink
from gateway.backends.prices import Prices
from gateway.building import Backends
from gateway.clock import Clock
from gateway.considered import Need, Verdicts
from gateway.detect.detectors import Detectors
from gateway.keys.keyring import TenantKeys
from gateway.keys.shredding import Shredding
from gateway.metrics import Metrics
from gateway.policies import Policies
from gateway.receipts.reloading import ReloadingSigner
from gateway.routing.health import Health
from gateway.settings import Settings
from gateway.store.base import Store
from gateway.taints import RememberedTaints

if TYPE_CHECKING:
    from gateway.shadow.shadow import Shadow
    from gateway.sinks.sinks import Sinks  # which judge requests, and so know this context


@dataclass
class Readiness:
    """Whether new requests are welcome, and how many are under way; turned off once, at the end."""

    ready: bool = True
    in_flight: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        self.ready = False
        self.stopping.set()


@dataclass(frozen=True, slots=True)
class GatewayContext:
    """The seams of the gateway.

    `store_place` is the place id of the store, None when nothing may be kept in it. `demo_keys` maps the
    SHA-256 of API keys made at run time to tenants. `needs` is what every request must permit to be served
    here.
    """

    settings: Settings
    policies: Policies
    backends: Backends
    health: Health
    store: Store
    store_place: str | None
    taints: RememberedTaints
    detectors: Detectors
    tenant_keys: TenantKeys
    shredding: Shredding
    audit: AuditSink
    signer: ReloadingSigner
    prices: Prices
    metrics: Metrics
    sinks: Sinks
    shadow: Shadow
    clock: Clock
    readiness: Readiness
    demo_keys: Mapping[str, str]
    needs: tuple[Need, ...]
    verdicts: Verdicts
