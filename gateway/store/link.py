"""Keeps a connection to Redis: notices when it is gone, answers so at once, and brings it back.

DOWN ──try──▶ TRYING ──ready──▶ UP
  ▲             │ lost           │ lost
  └─────────────┴────────────────┘        close: from anywhere to CLOSED, for good
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.store.address import Address, StoreMisconfigured
from gateway.store.wire import StoreGone, Wire

TRY_S: Final = 1.0  # for a connection with TLS, log-in, scripts and what is owed
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0
STEADY_S: Final = 5.0

LOG = logging.getLogger("gateway.store")


class Phase(Enum):
    DOWN = "down"
    TRYING = "trying"
    UP = "up"
    CLOSED = "closed"


class Event(Enum):
    TRY = "try"
    READY = "ready"
    LOST = "lost"
    CLOSE = "close"


TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    (Phase.DOWN, Event.TRY): Phase.TRYING,
    (Phase.TRYING, Event.READY): Phase.UP,
    (Phase.TRYING, Event.LOST): Phase.DOWN,
    (Phase.UP, Event.LOST): Phase.DOWN,
    **{(phase, Event.CLOSE): Phase.CLOSED for phase in Phase},
}


Prepare = Callable[[Wire], Awaitable[None]]


class Link:
    """The one connection of a worker. `prepare` runs on each new one before it serves."""

    def __init__(self, address: Address, prepare: Prepare, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._prepare = prepare
        self._phase = Phase.DOWN
        self._wire: Wire | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def wire(self) -> Wire | None:
        """The connection while it serves; None means: do without, at once."""
        return self._wire

    @property
    def phase(self) -> Phase:
        return self._phase

    async def open(self) -> None:
        """Tries once; a store that is away is waited for in the background.

        Raises `StoreMisconfigured` when it is there and refuses us.
        """
        wire = await self._try()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(wire), name="store-link")

    async def aclose(self) -> None:
        self._step(Event.CLOSE)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._wire is not None:
            await self._wire.aclose("the gateway closed it")
            self._wire = None

    async def _keep(self, wire: Wire | None) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_FIRST_S
        while self._phase is not Phase.CLOSED:
            if wire is not None:
                since_s = loop.time()
                await asyncio.wait([wire.lost])  # not `await wire.lost`: ending this task must not end it
                if loop.time() - since_s > STEADY_S:  # perhaps a hiccup: try at once
                    backoff_s = 0.0  # one that comes and goes is tried less and less
                self._wire = None
                self._step(Event.LOST)
                LOG.warning("redis at %s is gone: %s; doing without", self._address.id, wire.lost.result())
            await asyncio.sleep(backoff_s)
            backoff_s = min(max(2 * backoff_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)
            try:
                wire = await self._try()
            except StoreMisconfigured as error:
                wire = None
                LOG.error("%s", error)
            if wire is not None:
                LOG.warning("redis at %s is back", self._address.id)

    async def _try(self) -> Wire | None:
        """A connection that serves, or None. A wire that is lost meanwhile is noticed by `_keep`."""
        self._step(Event.TRY)
        wire: Wire | None = None
        try:
            async with asyncio.timeout(TRY_S):
                wire = await Wire.connect(self._address.connection(), self._timeout_s)
                await self._prepare(wire)
        except (RedisError, OSError, TimeoutError, StoreGone) as error:
            if wire is not None:
                await wire.aclose("it could not be used")
            self._step(Event.LOST)
            if misconfigured := self._misconfigured(error):
                raise misconfigured from None
            LOG.debug("redis at %s cannot be reached: %s", self._address.id, type(error).__name__)
            return None
        except BaseException:
            if wire is not None:
                await wire.aclose("the gateway closed it")
            raise
        self._step(Event.READY)
        self._wire = wire
        return wire

    def _misconfigured(self, error: BaseException) -> StoreMisconfigured | None:
        """What waiting cannot mend: a certificate, a password or a database that is wrong."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return StoreMisconfigured(
                    f"the certificate of redis at {self._address.id} is not valid for it: "
                    f"{cause.verify_message}; name its CA with `?ca_file=PATH`"
                )
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, (AuthenticationError, AuthorizationError, ResponseError)) and not isinstance(
            error, TRANSIENT
        ):
            return StoreMisconfigured(
                f"redis at {self._address.id} refuses us ({type(error).__name__}); "
                f"check user, password and database in the Redis URL"
            )
        return None

    def _step(self, event: Event) -> None:
        self._phase = TRANSITIONS[self._phase, event]


# Errors that pass by themselves, and that another connection may not meet.
TRANSIENT: Final = (BusyLoadingError, MasterDownError, ReadOnlyError, ClusterDownError, TryAgainError)
