"""Short ways to write requests that enter and leave a store."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from gateway.facts import Limits
from gateway.store.base import MARK_BYTES, Conversation, Entry, Leaving, Put, Reservation
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore

TestedStore = MemoryStore | RedisStore

PUBLIC = frozenset({"public"})
PERSONAL = frozenset({"public", "personal"})
CEILING = frozenset({"public", "internal", "confidential", "secret", "personal", "health"})


def mark(name: str) -> bytes:
    """A mark with a name."""
    return name.encode().ljust(MARK_BYTES, b".")


def saying(*latest: str, after: tuple[str, ...] = ()) -> Conversation:
    """A request whose messages `after` were said before this turn, and `latest` in it."""
    return Conversation(tuple(map(mark, (*after, *latest))), vouchers=len(after))


FIRST_TURN = saying("m1")
SECOND_TURN = saying("m2", after=("m1",))
THIRD_TURN = saying("m3", after=("m1", "m2"))

# Where the time that a call may wait is not what is tested, a busy machine must not decide the test.
PATIENT_S = 10.0

# 2026-01-01T12:00:02.5Z, in the middle of five seconds and of a day.
NOON_MS = 1_767_268_802_500

ids = itertools.count()


@dataclass(slots=True)
class ManualNow:
    """A clock in milliseconds that stands still until it is set."""

    ms: int = field(default=NOON_MS)

    def __call__(self) -> int:
        return self.ms

    def pass_s(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


def entry(
    conversation: Conversation | None = None,
    labels: frozenset[str] = PUBLIC,
    *,
    tenant: str = "acme",
    key_id: str = "key-1",
    limits: Limits | None = None,
    tokens: int = 0,
    usd_nano: int = 0,
    cache_key: str | None = None,
    at_ceiling: bool = False,
    id_: str | None = None,
) -> Entry:
    """One request; without a `conversation` it says what nobody has said before."""
    reservation = Reservation(
        id=id_ or f"r{next(ids)}", key_id=key_id, tokens=tokens, usd_nano=usd_nano, limits=limits or Limits()
    )
    return Entry(
        tenant=tenant, conversation=conversation or saying(f"new {next(ids)}"), known_labels=labels,
        at_ceiling=at_ceiling,
        reservation=reservation, cache_key=cache_key,
    )  # fmt: skip


def leaving(
    of: Entry,
    *,
    tokens: int = 0,
    usd_nano: int = 0,
    labels: frozenset[str] | None = None,
    answer: str | None = None,
    cached: Put | None = None,
    puts: tuple[Put, ...] = (),
) -> Leaving:
    return Leaving(
        tenant=of.tenant, reservation=of.reservation, used_tokens=tokens, used_usd_nano=usd_nano,
        labels=of.known_labels if labels is None else labels,
        answer=None if answer is None else mark(answer), cached=cached, puts=puts,
    )  # fmt: skip
