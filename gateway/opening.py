"""Opening and closing every seam of the gateway, in one place and in order."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from gateway import __version__, logs
from gateway.audit.base import AuditSink
from gateway.audit.files import FileAudit, Keeping, open_file_audit
from gateway.audit.records import Started, Stopped
from gateway.audit.s3 import Bucket, s3_client
from gateway.audit.s3_copy import AuditCopies, NoCopies, S3Copies
from gateway.backends.http import open_http
from gateway.backends.prices import Price, Prices
from gateway.backends.skew import Skews
from gateway.building import Backends, aws_session
from gateway.clock import Clock, SystemClock
from gateway.considered import Verdicts, needs_of
from gateway.context import GatewayContext, Readiness
from gateway.detect.detectors import Detectors
from gateway.egress.destinations import destinations
from gateway.egress.guard import Egress
from gateway.errors import RecordUnavailable
from gateway.hidden import told
from gateway.keys.opening import SHELF, kms_wrapping, open_keys, require_shared
from gateway.keys.shredding import Shredding
from gateway.metrics import Metrics
from gateway.places import BACKEND_KINDS
from gateway.policies import Policies, first_in_force, first_load, loaded_record
from gateway.policy.bundle import Bundle
from gateway.policy.live import Admission
from gateway.policy.problems import PolicyInvalid, Problem, did_you_mean
from gateway.policy.prover import Prover
from gateway.policy.serials import NoSerials, SerialFile, Serials
from gateway.policy.source.directory import read_directory
from gateway.policy.trust import Trust, load_trust
from gateway.receipts.keys import SigningKeyInvalid
from gateway.receipts.reloading import ReloadingSigner
from gateway.receipts.rotation import RECEIPT_KEY as RECEIPT_KEY
from gateway.receipts.rotation import RETIRED_KEYS as RETIRED_KEYS
from gateway.routing.health import Health
from gateway.settings import Settings, SettingsInvalid
from gateway.shadow.shadow import Candidate, NoShadow, Shadow
from gateway.shadow.tally import FOLDER
from gateway.sinks.opening import open_sinks, wrong_places
from gateway.sinks.request_log import DEFAULT_PLACE
from gateway.store.base import Store
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.taints import RememberedTaints

MILLION = 1_000_000
WATCH_AGAIN_S = 1.0


@asynccontextmanager
async def open_context(
    settings: Settings, demo_keys: Mapping[str, str], egress: Egress | None = None
) -> AsyncIterator[GatewayContext]:
    """Everything a request needs, open; closed in the reverse order.

    `egress` is the guard of the whole process, where there is one; the shared client always has a guard.
    Raises what the parts raise when they cannot be opened: `PolicyInvalid`, `PolicyTestsFailed`,
    `PolicyClaimsFailed`, `PolicyUntrusted`, `KeyFileInvalid`, `AuditUnusable`, `SinkUnusable`,
    `SettingsInvalid`. A bundle that is refused is in the audit by then.
    """
    clock = SystemClock()
    metrics = Metrics()
    prices = Prices.load(configured=configured_prices(settings))
    admission = admission_of(settings, prices)
    egress = egress or Egress()
    egress.register(metrics.registry)

    async with AsyncExitStack() as stack:
        keys = await asyncio.to_thread(open_keys, settings, clock)
        signer = await asyncio.to_thread(ReloadingSigner, settings.state_dir, kms_wrapping(settings))
        audit = open_file_audit(
            settings.state_dir / "audit",
            clock,
            settings.audit_durability,
            keeping=Keeping(
                signer.sign_checkpoint,
                settings.audit_checkpoint_records,
                settings.audit_file_bytes,
                settings.audit_keep_days,
            ),
        )
        stack.push_async_callback(audit.aclose)
        copies = open_copies(settings, audit, metrics, clock)
        live = await first_load(settings.policies, admission, audit)
        bundle = live.bundle
        egress.put_in_force(await asyncio.to_thread(destinations, settings, bundle))
        store, store_place = await open_store(settings)
        stack.push_async_callback(store.aclose)
        require_shared(keys.shelf.id, await store.claim(SHELF, keys.shelf.id))
        http = await stack.enter_async_context(open_http(tls=backend_tls(settings), egress=egress))
        backends = Backends(settings, http, keys.ring, Skews(metrics))
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

        await copies.open()
        await first_in_force(live, admission, audit)
        policies = Policies(settings.policies, live, admission, audit, metrics, put_in_force)
        started = Started(
            __version__, settings.gateway_place, bundle.revision, bundle.serial, settings.audit_durability,
            signer.kid, bool(demo_keys),
        )  # fmt: skip
        await audit.append(started.kind, started.fields())
        loaded = loaded_record(live, None, None)
        await audit.append(loaded.kind, loaded.fields())
        audit.checkpoint()
        taints = RememberedTaints()
        shredding = Shredding(keys.ring, keys.shelf, audit, forgetting(store, taints))
        await shredding.look()
        shadow = open_shadow(settings, admission, policies, audit, metrics, clock)
        kept_at = store_place if store_place in bundle.places else None
        needs = needs_of(settings, kept_at)
        context = GatewayContext(
            settings=settings,
            policies=policies,
            backends=backends,
            health=Health(),
            store=store,
            store_place=kept_at,
            taints=taints,
            detectors=Detectors(),
            tenant_keys=keys.ring,
            shredding=shredding,
            audit=audit,
            signer=signer,
            prices=prices,
            metrics=metrics,
            sinks=sinks,
            shadow=shadow,
            clock=clock,
            readiness=Readiness(),
            demo_keys=demo_keys,
            needs=needs,
            verdicts=Verdicts(needs, kept_at),
        )
        watches: list[Callable[[], Awaitable[None]]] = [
            partial(policies.watch, settings.policy_poll_s),
            partial(signer.watch, settings.policy_poll_s, audit),
            partial(audit.tend, settings.audit_checkpoint_s),
            shredding.watch,
            copies.watch,
        ]
        if isinstance(shadow, Candidate):
            watches.append(partial(shadow.watch, settings.policy_poll_s))
        watchers = [asyncio.create_task(kept_up(watch, clock)) for watch in watches]
        try:
            yield context
        finally:
            for watcher in watchers:
                watcher.cancel()
            if isinstance(shadow, Candidate):
                await shadow.save()
            await record_stop(context)
            with suppress(RecordUnavailable):
                audit.checkpoint()  # so that it is copied too
            await copies.aclose()


def open_shadow(
    settings: Settings,
    admission: Admission,
    policies: Policies,
    audit: AuditSink,
    metrics: Metrics,
    clock: Clock,
) -> Shadow:
    if settings.shadow_policies is None:
        return NoShadow()

    def load(directory: Path) -> Bundle:
        return admission.admit(read_directory(directory)).bundle

    saved = settings.state_dir / FOLDER
    return Candidate(settings.shadow_policies, load, policies, audit, metrics, clock, saved)


def open_copies(settings: Settings, audit: FileAudit, metrics: Metrics, clock: Clock) -> AuditCopies:
    if settings.audit_s3_bucket is None:
        return NoCopies()
    assert settings.audit_s3_region is not None
    client = s3_client(aws_session(settings), settings.audit_s3_region)
    bucket = Bucket(client, settings.audit_s3_bucket, settings.audit_s3_prefix, audit.replica)
    return S3Copies(
        audit, bucket, settings.audit_s3_retain_days, settings.audit_s3_interval_s, metrics, clock
    )


def forgetting(store: Store, taints: RememberedTaints) -> Callable[[str], Awaitable[None]]:
    """Clears what is known of a tenant under marks of its key: nothing finds them again."""

    async def forget(tenant: str) -> None:
        taints.clear()
        await store.forget(tenant)

    return forget


async def kept_up(watch: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Begins a watch anew that ended by a fault nobody foresaw: it must not end unnoticed, nor for good."""
    while True:
        try:
            return await watch()
        except Exception:
            logs.event("watch_failed", logging.ERROR, exc_info=True)
            await clock.sleep(WATCH_AGAIN_S)


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
        told(settings.redis_url),
        state_dir=settings.state_dir,
        replicas=settings.replicas,
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


def vouching_of(settings: Settings) -> tuple[Trust, Serials]:
    """Whose signatures count, and where serials are remembered. Raises `SettingsInvalid`."""
    try:
        trust = load_trust(settings.policy_trusted_keys, settings.policy_signatures_needed)
    except (SigningKeyInvalid, ValueError) as error:
        raise SettingsInvalid((f"`policy_trusted_keys`: {error}",)) from None
    return trust, SerialFile(settings.state_dir) if trust.keys else NoSerials()


def admission_of(settings: Settings, prices: Prices) -> Admission:
    """What a bundle must pass to come into force. Raises `SettingsInvalid`."""
    usable = lambda bundle: require_usable(bundle, settings, prices)  # noqa: E731
    return Admission(*vouching_of(settings), Prover(), usable)


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
