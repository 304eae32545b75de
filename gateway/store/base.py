"""The store's contract: one atomic call when a request enters, one when it leaves.

`enter` does steps 2, 5 and 6 of a request's life in a single round trip: it reads the labels that the
conversation has carried, reserves rate and money, and looks up the cache. The caller guesses the taint
(what this worker remembers); where the store knows of more labels than the guess, `enter` reserves and
looks up nothing and says so, and the caller judges again with the labels it now knows.

`leave` settles the reservation with real usage, writes the taint, and puts what may be kept.

Nothing in here interprets a value: entries arrive encrypted, and keys are digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.facts import Limits


@dataclass(frozen=True, slots=True)
class Conversation:
    """Where the labels of a conversation are kept.

    `reads` are digests that a past turn may have written: of the session id and of every earlier prefix of
    the messages. `writes` are those that a later turn will read. A first turn without a session id reads
    none.

    One of the first `vouchers` of `reads` must be on record in the store's present epoch for the store to
    answer for the conversation, unless that epoch is the first one that this tenant ever had.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    vouchers: int = 1


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request may use at most, held until it leaves. Money is in 10⁻⁹ USD; `id` is unique."""

    id: str
    key_id: str
    tokens: int
    usd_nano: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Entry:
    tenant: str
    conversation: Conversation
    known_labels: frozenset[str]  # what the request is judged with, with every lower word of the scale
    at_ceiling: bool  # judged at the highest labels of its tenant: an unreadable taint can add nothing
    reservation: Reservation
    cache_key: str | None  # None: nothing may be looked up


@dataclass(frozen=True, slots=True)
class Overrun:
    """A limit that leaves no room: `limit` is the field's name in `Limits`."""

    limit: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Entered:
    """What the store answered.

    `taint` holds labels that the conversation has carried. With `unreadable`, the store cannot vouch for
    what it has forgotten (it is gone, was flushed, failed over or evicted): the caller must judge the
    conversation at the highest labels that its tenant may carry.
    `accepted` is False when nothing was reserved or looked up because the taint exceeds `known_labels`,
    or because it is unreadable, the conversation has a past, and the request is not judged `at_ceiling` yet.

    An accepted request has its `known_labels` on record for its conversation from here on, so that not even
    a crash forgets them. It holds its reservation, and must `leave`, unless it is `overrun` or `cached`:
    then it holds nothing, and a hit has counted as one request.
    """

    taint: frozenset[str]
    unreadable: bool
    accepted: bool
    overrun: Overrun | None
    cached: bytes | None


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Leaving:
    tenant: str
    reservation: Reservation
    used_tokens: int
    used_usd_nano: int
    conversation: Conversation
    labels: frozenset[str]  # what the conversation has now carried, with every lower word of the scale
    puts: tuple[Put, ...]


class Store(Protocol):
    """Redis, or the process itself. No call blocks longer than 50 ms, and none raises: a store that is gone
    answers with `unreadable`, finds nothing, keeps nothing, and grants a stated local share of each limit."""

    async def enter(self, entry: Entry) -> Entered: ...

    async def leave(self, leaving: Leaving) -> None: ...

    async def fetch(self, tenant: str, key: str) -> bytes | None:
        """One value that `leave` has put, or None."""
        ...

    async def healthy(self) -> bool: ...

    async def aclose(self) -> None: ...
