"""The embedded store: one process, nothing to install, everything gone when it ends."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.store.base import Entered, Entry, Leaving, Put
from gateway.store.epochs import NEVER, EpochMemory
from gateway.store.limits import Usage, caps_of

WORKERS_MAX: Final = 1
VALUES_BYTES_MAX = 64 * 1024 * 1024
RECORDS_MAX = 400_000  # some 80 bytes each
SWEEP_EVERY_MS = 60_000
ANSWER, VALUE = "a:", "v:"  # before the keys of what `enter` finds, and of what `fetch` does

NowMs = Callable[[], int]


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class TooManyWorkers(ValueError):
    """Several processes cannot share a store that lives inside one of them."""


def require_single_worker(workers: int) -> None:
    """Raises `TooManyWorkers`: each worker would hold limits and labels of its own."""
    if workers > WORKERS_MAX:
        raise TooManyWorkers(
            f"the in-process store serves one worker, not `{workers}`: each would count limits and remember "
            f"labels by itself; set `DOUANE_REDIS_URL`, or run one worker"
        )


@dataclass(frozen=True, slots=True)
class Record:
    epoch: str  # without its kind
    labels: frozenset[str]


@dataclass(slots=True)
class Labelled:
    """The labels of a tenant's conversations, and the epoch that answers for them."""

    epoch: str  # `g…`, `a…` or `r…`, as in `lua/epoch.lua`
    records: dict[bytes, Record] = field(default_factory=dict)  # by mark, oldest first
    kinds: dict[frozenset[str], Record] = field(default_factory=dict)  # of this epoch: marks share them

    @property
    def answers_for_all(self) -> bool:
        return self.epoch[0] in "ga"

    def vouches(self, record: Record | None) -> bool:
        return record is not None and record.epoch == self.epoch[1:]

    def begin(self, epoch: str) -> None:
        self.epoch = epoch
        self.kinds = {}

    def add(self, mark: bytes, labels: frozenset[str]) -> bool:
        """Whether the mark is a new one."""
        before = self.records.get(mark)
        joined = labels if before is None else labels | before.labels
        record = self.kinds.get(joined)
        if record is None:
            record = self.kinds[joined] = Record(self.epoch[1:], joined)
        self.records[mark] = record
        return before is None


@dataclass(frozen=True, slots=True)
class Value:
    data: bytes
    until_ms: int
    mark: bytes | None = None  # of an answer


class MemoryStore:
    """A `Store` inside the process. Never waits, so each call is atomic on the event loop."""

    def __init__(
        self,
        epochs: EpochMemory,
        *,
        now_ms: NowMs = wall_ms,
        values_bytes_max: int = VALUES_BYTES_MAX,
        records_max: int = RECORDS_MAX,
    ) -> None:
        self._epochs = epochs
        self._now_ms = now_ms
        self._values: OrderedDict[tuple[str, str], Value] = OrderedDict()  # least recently used first
        self._values_bytes = 0
        self._values_bytes_max = values_bytes_max
        self._labelled: dict[str, Labelled] = {}
        self._records = 0
        self._records_max = records_max
        self._usage: dict[tuple[str, str], Usage] = {}
        self._swept_ms = 0
        self._claims: dict[str, str] = {}

    @classmethod
    async def open(
        cls,
        *,
        state_dir: Path | None = None,
        workers: int = 1,
        now_ms: NowMs = wall_ms,
        values_bytes_max: int = VALUES_BYTES_MAX,
        records_max: int = RECORDS_MAX,
    ) -> MemoryStore:
        """Raises `TooManyWorkers` and `gateway.store.epochs.StateUnreadable`.

        Without `state_dir` every past is unreadable that did not begin in this process; with it, a past
        counts as empty the first time that this machine ever opens the store, and never again.
        """
        require_single_worker(workers)
        epochs = EpochMemory.open(state_dir, "memory")
        return cls(epochs, now_ms=now_ms, values_bytes_max=values_bytes_max, records_max=records_max)

    async def enter(self, entry: Entry) -> Entered:
        now_ms = self._now_ms()
        labelled = self._labelled_of(entry.tenant)
        marks, vouchers = entry.conversation.marks, entry.conversation.vouchers
        found = [labelled.records.get(mark) for mark in marks]
        taint = frozenset().union(*{record.labels for record in found if record is not None})
        readable = labelled.answers_for_all or all(map(labelled.vouches, found[:vouchers]))
        if not taint <= entry.known_labels or not (readable or entry.at_ceiling):
            return Entered(taint, not readable, False, None, None)
        self._record(entry.tenant, marks, entry.known_labels)
        cached = self._get(entry.tenant, ANSWER + entry.cache_key, now_ms) if entry.cache_key else None
        caps = caps_of(entry.reservation.limits)
        if caps.any:
            usage = self._usage.setdefault((entry.tenant, entry.reservation.key_id), Usage())
            overrun = usage.admit(caps, entry.reservation, now_ms, hit=cached is not None)
            if overrun:
                return Entered(taint, not readable, True, overrun, None)
        self._sweep(now_ms)
        if cached is None:
            return Entered(taint, not readable, True, None, None)
        if cached.mark is not None:
            self._record(entry.tenant, (cached.mark,), entry.known_labels)
        return Entered(taint, not readable, True, None, cached.data)

    async def leave(self, leaving: Leaving) -> None:
        now_ms = self._now_ms()
        if leaving.answer is not None:
            self._record(leaving.tenant, (leaving.answer,), leaving.labels)
        usage = self._usage.get((leaving.tenant, leaving.reservation.key_id))
        if usage:
            usage.settle(leaving.reservation.id, leaving.used_tokens, leaving.used_usd_nano)
        if leaving.cached is not None:
            self._put(leaving.tenant, ANSWER, leaving.cached, now_ms, leaving.answer)
        for put in leaving.puts:
            self._put(leaving.tenant, VALUE, put, now_ms)

    async def fetch(self, tenant: str, key: str) -> bytes | None:
        value = self._get(tenant, VALUE + key, self._now_ms())
        return value.data if value is not None else None

    async def forget(self, tenant: str) -> None:
        labelled = self._labelled.pop(tenant, None)
        if labelled is not None:
            self._records -= len(labelled.records)
        for key in [key for of, key in self._values if of == tenant]:
            self._drop(tenant, key)

    async def claim(self, name: str, value: str) -> str | None:
        return self._claims.setdefault(name, value)

    async def healthy(self) -> bool:
        return True

    async def accept_epoch(self, tenant: str) -> str:
        """From here the store answers for every conversation of `tenant` again: what was lost stays lost."""
        labelled = self._labelled_of(tenant)
        labelled.begin(self._new_epoch(tenant, "a"))
        return labelled.epoch

    async def aclose(self) -> None:
        await self._epochs.aclose()

    def _labelled_of(self, tenant: str) -> Labelled:
        labelled = self._labelled.get(tenant)
        if labelled is None:
            kind = "g" if self._epochs.remembered(tenant) == NEVER else "r"
            labelled = self._labelled[tenant] = Labelled(self._new_epoch(tenant, kind))
        return labelled

    def _new_epoch(self, tenant: str, kind: str) -> str:
        epoch = kind + secrets.token_hex(8)
        self._epochs.learn(tenant, epoch)
        return epoch

    def _record(self, tenant: str, marks: tuple[bytes, ...], labels: frozenset[str]) -> None:
        labelled = self._labelled_of(tenant)
        self._records += sum(labelled.add(mark, labels) for mark in marks)
        if self._records > self._records_max:
            self._forget_half(tenant, labelled)

    def _forget_half(self, tenant: str, labelled: Labelled) -> None:
        """Makes room. What is forgotten may be anyone's past, so the present epoch ends with it."""
        kept = list(labelled.records.items())[len(labelled.records) // 2 + 1 :]
        self._records -= len(labelled.records) - len(kept)
        labelled.records = dict(kept)
        labelled.begin(self._new_epoch(tenant, "r"))

    def _get(self, tenant: str, key: str, now_ms: int) -> Value | None:
        value = self._values.get((tenant, key))
        if value is None:
            return None
        if value.until_ms <= now_ms:
            self._drop(tenant, key)
            return None
        self._values.move_to_end((tenant, key))
        return value

    def _put(self, tenant: str, kind: str, put: Put, now_ms: int, mark: bytes | None = None) -> None:
        self._drop(tenant, kind + put.key)
        if put.ttl_s <= 0 or len(put.value) > self._values_bytes_max:
            return
        self._values[tenant, kind + put.key] = Value(put.value, now_ms + put.ttl_s * 1000, mark)
        self._values_bytes += len(put.value)
        while self._values_bytes > self._values_bytes_max:
            self._drop(*next(iter(self._values)))

    def _drop(self, tenant: str, key: str) -> None:
        value = self._values.pop((tenant, key), None)
        if value:
            self._values_bytes -= len(value.data)

    def _sweep(self, now_ms: int) -> None:
        """Forgets keys that have been idle for a day: what they used no longer counts."""
        if now_ms - self._swept_ms >= SWEEP_EVERY_MS:
            self._swept_ms = now_ms
            self._usage = {key: usage for key, usage in self._usage.items() if usage.idle_after_ms > now_ms}
