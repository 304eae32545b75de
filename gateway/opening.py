"""Opening and closing every seam of the gateway, in one place and in order."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from gateway import __version__, logs
from gateway.audit.files import open_file_audit
from gateway.audit.records import Started, Stopped
from gateway.backends.http import open_http
from gateway.backends.prices import Price, Prices
from gateway.building import Backends
from gateway.clock import SystemClock
from gateway.considered import Verdicts, needs_of
from gateway.context import GatewayContext, Readiness
from gateway.detect.detectors import Detectors
from gateway.egress.destinations import destinations
from gateway.egress.guard import Egress
from gateway.errors import RecordUnavailable
from gateway.metrics import Metrics
from gateway.places import BACKEND_KINDS
from gateway.policies import Policies, loaded_record
from gateway.policy.bundle import Bundle
from gateway.policy.load import load_bundle
from gateway.policy.problems import (
    PolicyClaimsFailed,
    PolicyInvalid,
    PolicyTestsFailed,
    Problem,
    did_you_mean,
)
from gateway.policy.prover import Prover
from gateway.receipts.keys import load_signer
from gateway.routing.health import Health
from gateway.settings import Settings, SettingsInvalid
from gateway.sinks.opening import open_sinks, wrong_places
from gateway.sinks.request_log import DEFAULT_PLACE
from gateway.store.base import Store
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.taints import RememberedTaints
from gateway.tenant_keys import TenantKeys

MILLION = 1_000_000
MASTER_KEY = "master.key"
RECEIPT_KEY = "receipt-key.pem"
RETIRED_KEYS = "retired-keys"


@asynccontextmanager
async def open_context(
    settings: Settings, demo_keys: Mapping[str, str], egress: Egress | None = None
) -> AsyncIterator[GatewayContext]:
    """Everything a request needs, open; closed in the reverse order.

    `egress` is the guard of the whole process, where there is one; the shared client always has a guard.
    Raises what the parts raise when they cannot be opened: `PolicyInvalid`, `PolicyTestsFailed`,
    `PolicyClaimsFailed`, `KeyFileInvalid`, `AuditUnusable`, `SinkUnusable`, `SettingsInvalid`.
    """
    clock = SystemClock()
    metrics = Metrics()
    prices = Prices.load(configured=configured_prices(settings))
    prover = Prover()
    egress = egress or Egress()
    egress.register(metrics.registry)

    def load(directory: Path) -> Bundle:
        return require_usable(load_bundle(directory, prover), settings, prices)

    bundle = await asyncio.to_thread(load, settings.policies)
    async with AsyncExitStack() as stack:
        keys = TenantKeys.from_file(settings.state_dir / MASTER_KEY)
        signer = load_signer(settings.state_dir / RECEIPT_KEY, settings.state_dir / RETIRED_KEYS)
        audit = open_file_audit(settings.state_dir / "audit", clock, settings.audit_durability)
        stack.push_async_callback(audit.aclose)
        egress.put_in_force(await asyncio.to_thread(destinations, settings, bundle))
        store, store_place = await open_store(settings)
        stack.push_async_callback(store.aclose)
        http = await stack.enter_async_context(open_http(tls=backend_tls(settings), egress=egress))
        backends = Backends(settings, http, keys)
        backends.rebuild(bundle)
        if settings.log_place is None and DEFAULT_PLACE not in bundle.places:
            logs.event("no_log_place", logging.WARNING, place=DEFAULT_PLACE)  # no request is logged then
        sinks = open_sinks(settings, http, audit.replica, metrics)
        stack.push_async_callback(sinks.aclose)

        def put_in_force(bundle: Bundle) -> None:
            try:
                reachable = destinations(settings, bundle)
                backends.rebuild(bundle)
                egress.put_in_force(reachable)
            except (SettingsInvalid, ValueError) as error:
                problem = Problem(
                    "places.yaml", 0, None, str(error), "the places and the settings must agree"
                )
                raise PolicyInvalid([problem]) from error

        policies = Policies(
            settings.policies,
            bundle,
            load,
            (PolicyInvalid, PolicyTestsFailed, PolicyClaimsFailed),
            audit,
            metrics,
            put_in_force,
        )
        started = Started(
            __version__, settings.gateway_place, bundle.revision, bundle.serial, settings.audit_durability,
            signer.kid, bool(demo_keys),
        )  # fmt: skip
        await audit.append(started.kind, started.fields())
        loaded = loaded_record(bundle, None)
        await audit.append(loaded.kind, loaded.fields())
        kept_at = store_place if store_place in bundle.places else None
        needs = needs_of(settings, kept_at)
        context = GatewayContext(
            settings=settings,
            policies=policies,
            backends=backends,
            health=Health(),
            store=store,
            store_place=kept_at,
            taints=RememberedTaints(),
            detectors=Detectors(),
            tenant_keys=keys,
            audit=audit,
            signer=signer,
            prices=prices,
            metrics=metrics,
            sinks=sinks,
            clock=clock,
            readiness=Readiness(),
            demo_keys=demo_keys,
            needs=needs,
            verdicts=Verdicts(needs, kept_at),
        )
        watcher = asyncio.create_task(policies.watch(settings.policy_poll_s))
        try:
            yield context
        finally:
            watcher.cancel()
            await record_stop(context)


async def record_stop(context: GatewayContext) -> None:
    stopped = Stopped("asked to stop", context.readiness.in_flight)
    try:
        await context.audit.append(stopped.kind, stopped.fields())
    except RecordUnavailable:
        logs.event("audit_unavailable", logging.ERROR, record=stopped.kind)


async def open_store(settings: Settings) -> tuple[Store, str | None]:
    if settings.redis_url is None:
        return await MemoryStore.open(state_dir=settings.state_dir), settings.memory_place
    store = await RedisStore.open(
        settings.redis_url.get_secret_value(), state_dir=settings.state_dir, replicas=settings.replicas
    )
    return store, settings.redis_place


def backend_tls(settings: Settings) -> ssl.SSLContext:
    """The system's authorities and the operator's; nothing turns a check off."""
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ssl.SSLError):
            raise SettingsInvalid(
                (f"`ca_file` {settings.ca_file} is not a readable file of certificates in PEM form",)
            ) from None
    return context


def configured_prices(settings: Settings) -> dict[str, Price]:
    """Prices that the operator states, by place."""
    return {
        place: Price(
            given.input_usd_per_million_tokens / MILLION,
            given.output_usd_per_million_tokens / MILLION,
            "settings",
        )
        for place, given in settings.backends.items()
        if given.input_usd_per_million_tokens is not None and given.output_usd_per_million_tokens is not None
    }


def require_usable(bundle: Bundle, settings: Settings, prices: Prices) -> Bundle:
    """Raises `PolicyInvalid` for a place that the settings name and the bundle lacks, or whose answers could
    not be charged to a budget."""
    named = {
        "gateway_place": settings.gateway_place,
        "terminator_place": settings.terminator_place,
    }
    problems = [
        Problem("places.yaml", 0, None, f"the setting `{name}` names the place `{place}`, which is not there",
                did_you_mean(place, bundle.places))
        for name, place in named.items()
        if place is not None and place not in bundle.places
    ]  # fmt: skip
    problems += wrong_places(settings, bundle.places)
    priced = (
        "set `input_usd_per_million_tokens` and `output_usd_per_million_tokens` of the place under `backends`"
    )
    problems += [
        Problem("places.yaml", 0, None, text, priced)
        for text in prices.unpriced(place for place in bundle.places.values() if place.kind in BACKEND_KINDS)
    ]
    if problems:
        raise PolicyInvalid(problems)
    return bundle
