"""A gateway under test, and what is seen of it: what its store and its audit were told, by request."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from gateway.audit.base import Sealed
from gateway.audit.memory import MemoryAudit
from gateway.clock import ManualClock
from gateway.context import GatewayContext
from gateway.keys.shelf import MemoryShelf
from gateway.metrics import Metrics
from gateway.opening import open_context
from gateway.policy.bundle import Bundle
from gateway.policy.live import Live
from gateway.policy.summary import Offered
from gateway.receipts.assemble import Ending
from gateway.routing.health import Health
from gateway.settings import Settings
from gateway.sinks.content_log import ContentLog
from gateway.sinks.story import story_of
from gateway.store.base import Entered, Entry, Leaving
from gateway.store.memory import MemoryStore
from gateway.taints import RememberedTaints
from gateway.trail import Trail
from tests.gateway.inprocess import make_keys
from tests.integration.bundle import POLICIES, without_examples
from tests.residency.servers import SECRET, Outside
from tests.residency.worlds import AUDIT, GATEWAY, LOGS, SERVERS, STORE, TERMINATOR


class Watch(Protocol):
    """Who is told what the gateway does to its store and its audit, in the course of one request."""

    @property
    def store_up(self) -> bool: ...

    @property
    def audit(self) -> str: ...

    async def entered(self, entry: Entry, entered: Entered) -> None: ...

    def left(self, leaving: Leaving) -> None: ...

    async def recorded(self, kind: str, fields: Mapping[str, Any]) -> None: ...

    def logged(self, line: bytes) -> None: ...

    def failed_to_log(self) -> None: ...


# The request that the present task is about.
CURRENT: ContextVar[Watch] = ContextVar("CURRENT")


@dataclass
class WatchedStore:
    """A `Store` that tells of each call. Without `store_up` it is as one that is gone (see `Store`)."""

    inner: MemoryStore

    async def enter(self, entry: Entry) -> Entered:
        watch = CURRENT.get()
        if not watch.store_up:
            # It owes labels to this tenant now, so no epoch after the outage passes for the tenant's first.
            self.inner._labelled_of(entry.tenant)
            past = entry.conversation.vouchers > 0
            entered = Entered(frozenset(), past, entry.at_ceiling or not past, None, None)
        else:
            entered = await self.inner.enter(entry)
        await watch.entered(entry, entered)
        return entered

    async def leave(self, leaving: Leaving) -> None:
        watch = CURRENT.get()
        if watch.store_up:
            watch.left(leaving)
            await self.inner.leave(leaving)

    async def fetch(self, tenant: str, key: str) -> bytes | None:
        return await self.inner.fetch(tenant, key)

    async def forget(self, tenant: str) -> None:
        await self.inner.forget(tenant)

    async def claim(self, name: str, value: str) -> str | None:
        return await self.inner.claim(name, value)

    async def healthy(self) -> bool:
        return True

    async def aclose(self) -> None:
        await self.inner.aclose()


class WatchedAudit(MemoryAudit):
    """An audit that tells of each record, and fails when the request is to meet an audit that fails."""

    async def append(self, kind: str, fields: Mapping[str, Any]) -> Sealed:
        watch = CURRENT.get()
        self.writable = watch.audit == "up" or (watch.audit == "out after begin" and kind == "begin")
        sealed = await super().append(kind, fields)
        await watch.recorded(kind, fields)
        return sealed


class Lines:
    """Files of a content log that tell of each line."""

    def write(self, line: bytes) -> None:
        CURRENT.get().logged(line)


class WatchedContentLog(ContentLog):
    """A content log that writes while its request ends, instead of in a thread of its own."""

    def __init__(self, metrics: Metrics) -> None:
        self._files = Lines()  # type: ignore[assignment]
        self._place = LOGS
        self._metrics = metrics
        self._works = True

    def ended(self, ending: Ending, trail: Trail, context: GatewayContext) -> None:
        story = story_of(ending, trail, context, content=True)
        if story is not None and self._write(story, context) == "failed":
            CURRENT.get().failed_to_log()

    async def aclose(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class House:
    """The gateway. `enter` puts a fresh world in force; connections and keys stay."""

    opened: GatewayContext
    context: GatewayContext
    directory: Path
    lines: list[str] = field(default_factory=list)  # of the process's own log
    worlds: int = 0
    put_in_force: Callable[[Bundle], None] | None = None

    async def enter(self, bundle: Bundle, audit_failure: str) -> None:
        await self.swap(bundle)
        if self.worlds:
            await self.watched_store.aclose()
        self.worlds += 1
        self.context = replace(
            self.opened,
            settings=self.opened.settings.model_copy(update={"audit_failure": audit_failure}),
            health=Health(),
            store=WatchedStore(await MemoryStore.open(state_dir=self.epochs)),
            taints=RememberedTaints(),
            audit=WatchedAudit(),
            clock=ManualClock(),
            sinks=replace(self.opened.sinks, content_log=WatchedContentLog(self.opened.metrics)),
        )

    async def lose_the_store(self) -> None:
        """It comes back empty, as after a flush or a failover."""
        await self.watched_store.aclose()
        self.watched_store.inner = await MemoryStore.open(state_dir=self.epochs)

    @property
    def epochs(self) -> Path:
        """What this machine remembers of the store: it outlives the store, and no world."""
        return self.directory / f"world-{self.worlds}"

    def forget(self) -> None:
        """The next request meets a worker that has seen none before."""
        self.context.taints._labels.clear()

    @property
    def watched_store(self) -> WatchedStore:
        store = self.context.store
        assert isinstance(store, WatchedStore)
        return store

    async def swap(self, bundle: Bundle) -> None:
        """Puts another revision in force, the way in which one that was loaded comes into force."""
        policies = self.opened.policies
        policies._admit = lambda files: Live(bundle, files, ())
        policies._describe = lambda *_: Offered(bundle.serial, None)  # in no process, thousands of times
        await policies.reload()

    def tell_of_swaps(self, told: Callable[[Bundle], None]) -> None:
        """`told` hears of each revision at the very moment at which it comes into force."""
        policies = self.opened.policies
        put_in_force = self.put_in_force = self.put_in_force or policies._in_force

        def put_and_tell(bundle: Bundle) -> None:
            put_in_force(bundle)
            told(bundle)

        policies._in_force = put_and_tell


@asynccontextmanager
async def open_house(directory: Path, outside: Outside) -> AsyncIterator[House]:
    """A gateway in this process, over real sockets to what runs outside."""
    bundle = shutil.copytree(POLICIES, directory / "policies")
    without_examples(bundle)
    with (bundle / "places.yaml").open("a") as places:
        places.write(f"\n  - {{id: {TERMINATOR}, kind: gateway, country: DE, operator: self}}\n")
    make_keys(directory / "state")
    settings = Settings.model_validate(
        {
            "policies": bundle,
            "state_dir": directory / "state",
            "policy_poll_s": 3600,
            "gateway_place": GATEWAY,
            "terminator_place": TERMINATOR,
            "audit_place": AUDIT,
            "memory_place": STORE,
            "bedrock": "emulator",
            "emulator_urls": {region: outside.urls[region] for region in outside.regions},
            "engine_url": outside.urls["local-engine"],
            "engine_secret": SECRET,
            "backends": {
                name: {
                    "url": outside.urls[name],
                    "secret": SECRET,
                    "input_usd_per_million_tokens": 1,
                    "output_usd_per_million_tokens": 1,
                }
                for name in SERVERS[1:]
            },
        }
    )
    async with open_context(settings, {}) as context:
        # Each world has tenants of its own, thousands in all: their keys need not survive a power cut.
        context.tenant_keys._shelf = MemoryShelf()
        yield House(context, context, directory)
