"""The store's contract: one atomic call when a request enters, one when it leaves.

`enter` does steps 2, 5 and 6 of a request's life in a single round trip: it reads the labels that the
conversation has carried, reserves rate and money, and looks up the cache. The caller guesses the taint
(what this worker remembers); where the store knows of more labels than the guess, `enter` reserves and
looks up nothing and says so, and the caller judges again with the labels it now knows.

`leave` settles the reservation with real usage, marks the answer with its labels, and puts what may be kept.

Nothing in here interprets a value: entries arrive encrypted, and keys are digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from gateway.facts import Limits

MARK_BYTES: Final = 16
"""A mark is a keyed digest of a message or a session id: 128 bits, so that two meet by chance after 2⁶⁴."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request shows of its past: the marks under which labels are found, and left.

    `marks` are distinct: of the session id, of what was said before this turn, and of this turn. A turn reads
    and leaves every one of them, in whatever order or selection a later one shows them.

    In an epoch that began after labels may have been lost, the store answers for the conversation only if
    each of the first `vouchers` marks is on record in it. A request without vouchers shows no past.
    """

    marks: tuple[bytes, ...]
    vouchers: int

    @property
    def affinity(self) -> str:
        """The same text in every turn: of the session id, or of how the conversation began."""
        return self.marks[0].hex() if self.marks else ""


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

    An accepted request has its `known_labels` on record for every mark of its conversation from here on, so
    that not even a crash forgets them; a hit, for the mark of the cached answer too. It holds its
    reservation, and must `leave`, unless it is `overrun` or `cached`: then it holds nothing, and a hit has
    counted as one request.
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
    """`answer` is the mark of what was delivered, None for nothing. `cached` is the same answer, for `enter`
    to find under its key; `puts` are for `fetch`."""

    tenant: str
    reservation: Reservation
    used_tokens: int
    used_usd_nano: int
    labels: frozenset[str]  # what the request was judged with, with every lower word of the scale
    answer: bytes | None
    cached: Put | None
    puts: tuple[Put, ...]


class Store(Protocol):
    """Redis, or the process itself. No call blocks longer than 50 ms, and none raises: a store that is gone
    answers with `unreadable`, finds nothing, keeps nothing, and grants a stated local share of each limit."""

    async def enter(self, entry: Entry) -> Entered: ...

    async def leave(self, leaving: Leaving) -> None: ...

    async def fetch(self, tenant: str, key: str) -> bytes | None:
        """One value that `leave` has put, or None."""
        ...

    async def forget(self, tenant: str) -> None:
        """The marks of this tenant can be found no more: its key is another, or none.

        Where the store has labels of it they are removed, and every conversation with a past counts as one
        that cannot be read. Values that `fetch` or a hit would find are as good as gone, and lapse.
        """
        ...

    async def claim(self, name: str, value: str) -> str | None:
        """What is kept under `name` for all who share the store: `value`, unless something was there already;
        None where that cannot be told now."""
        ...

    async def healthy(self) -> bool: ...

    async def aclose(self) -> None: ...
