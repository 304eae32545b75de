"""The store in Redis: one round trip when a request enters, one when it leaves.

All keys of a tenant share the hash tag `{tenant}`, and so one slot of a cluster:

    douane:{tenant}:labels         hash    the labels of its conversations, and their epoch
    douane:{tenant}:use:KEY_ID     hash    what a key has used of its limits
    douane:{tenant}:a:KEY          string  the mark of an answer and the answer, sealed; with a time to live
    douane:{tenant}:v:KEY          string  another sealed value, with a time to live
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from redis.exceptions import NoScriptError, ResponseError

from gateway.facts import Limits
from gateway.store.address import Address, parse_url
from gateway.store.base import MARK_BYTES, Entered, Entry, Leaving, Overrun
from gateway.store.epochs import EpochMemory
from gateway.store.limits import Caps, Usage, caps_of, share_of
from gateway.store.link import TRY_S, Link
from gateway.store.memory import NowMs, wall_ms
from gateway.store.owed import Owed, Settle
from gateway.store.scripts import Script, Scripts, load_scripts
from gateway.store.wire import TIMEOUT_S, Argument, StoreGone, Wire, code_of

PAID_AT_ONCE: Final = 500  # marks in one command
NO_MARK: Final = bytes(MARK_BYTES)  # before a cached answer that leaves none

LOG = logging.getLogger("gateway.store")


@dataclass(frozen=True, slots=True)
class Names:
    """A tenant's keys in Redis."""

    labels: str
    use: str
    answer: str
    value: str


class RedisStore:
    """A `Store` shared by any number of workers."""

    def __init__(
        self, address: Address, epochs: EpochMemory, replicas: int, now_ms: NowMs | None, timeout_s: float
    ) -> None:
        self._link = Link(address, self._prepare, timeout_s)
        self._address_id = address.id
        self._epochs = epochs
        self._replicas = replicas
        self._now_ms = now_ms
        self._scripts: Scripts = load_scripts()
        self._seed = secrets.token_hex(6)
        self._run = ""  # the server process that answers; '' when it does not say
        self._names: dict[str, Names] = {}
        self._caps: dict[Limits, Caps] = {}
        self._owed = Owed()
        self._usage: dict[tuple[str, str], Usage] = {}  # what this worker granted by itself

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        state_dir: Path | None = None,
        replicas: int = 1,
        now_ms: NowMs | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> RedisStore:
        """Connects; a Redis that is away is waited for while the store already answers without it.

        `replicas` is the number of workers, on all machines, that share this Redis: while it is gone, each
        grants that part of every limit. Raises `gateway.store.address.StoreMisconfigured` (a wrong URL, a
        refused log-in or certificate) and `gateway.store.epochs.StateUnreadable`. For tests: `now_ms`
        replaces Redis's own clock, and `timeout_s` is how long a call waits.
        """
        if replicas < 1:
            raise ValueError(f"`replicas` is `{replicas}`; it must be the number of workers, 1 or more")
        address = parse_url(url)
        if address.tls:
            address.require_readable_ca()
        store = cls(address, EpochMemory.open(state_dir, address.id), replicas, now_ms, timeout_s)
        await store._link.open()
        if store._link.wire is None:
            LOG.warning("redis at %s cannot be reached; doing without until it can", store._address_id)
        return store

    async def enter(self, entry: Entry) -> Entered:
        wire = self._link.wire
        if wire is None:
            return self._enter_apart(entry)
        names = self._names_of(entry.tenant)
        conversation, asked = entry.conversation, entry.reservation
        caps = self._caps_of(asked.limits)
        keys = [names.labels, names.use + asked.key_id]
        if entry.cache_key is not None:
            keys.append(names.answer + entry.cache_key)
        try:
            reply = await self._eval(
                wire, self._scripts.enter, keys,
                *self._epoch_arguments(entry.tenant), int(entry.at_ceiling), joined(entry.known_labels),
                b"".join(conversation.marks), conversation.vouchers, asked.id, asked.tokens, asked.usd_nano,
                *(("", "", "", "") if not caps.any else cap_arguments(caps)),
            )  # fmt: skip
        except asyncio.CancelledError:
            # The client hung up while the answer was on its way; what it reserved must not stay held.
            if not self._told(Settle(entry.tenant, asked.key_id, asked.id, 0, 0)):
                self._owed.settle(Settle(entry.tenant, asked.key_id, asked.id, 0, 0))
            raise
        if reply is None:
            return self._enter_apart(entry)
        self._epochs.learn(entry.tenant, reply[1].decode())
        return entered(reply)

    async def leave(self, leaving: Leaving) -> None:
        self._settle_apart(leaving)
        wire = self._link.wire
        reply = None
        answer = leaving.answer or b""
        if wire is not None:
            names = self._names_of(leaving.tenant)
            keys = [names.labels, names.use + leaving.reservation.key_id]
            values: list[Argument] = []
            if leaving.cached is not None and leaving.cached.ttl_s > 0:
                keys.append(names.answer + leaving.cached.key)
                values += ((answer or NO_MARK) + leaving.cached.value, leaving.cached.ttl_s)
            for put in leaving.puts:
                if put.ttl_s > 0:
                    keys.append(names.value + put.key)
                    values += (put.value, put.ttl_s)
            reply = await self._eval(
                wire, self._scripts.leave, keys,
                *self._epoch_arguments(leaving.tenant), int(self._caps_of(leaving.reservation.limits).holds),
                joined(leaving.labels), answer, leaving.reservation.id,
                leaving.used_tokens, leaving.used_usd_nano, *values,
            )  # fmt: skip
        if reply is None:
            if leaving.answer is not None:
                self._owe(leaving.tenant, (leaving.answer,), leaving.labels)
            self._owed.settle(settle_of(leaving))
        else:
            self._epochs.learn(leaving.tenant, reply.decode())

    async def fetch(self, tenant: str, key: str) -> bytes | None:
        wire = self._link.wire
        if wire is None:
            return None
        try:
            reply = await wire.call("GET", self._names_of(tenant).value + key)
        except StoreGone:
            return None
        if isinstance(reply, ResponseError):
            self._refused(wire, reply)
            return None
        return cast(bytes | None, reply)

    async def forget(self, tenant: str) -> None:
        """Without Redis: owed, and done before the next connection serves."""
        wire = self._link.wire
        self._epochs.owe(tenant)
        try:
            if wire is None:
                raise StoreGone
            removed = answer_or_gone(await wire.call("UNLINK", self._names_of(tenant).labels))
            if removed:  # one that had no labels begins its first epoch yet, or is known to have had one
                await self._pay(wire, Owed(renew={tenant}))
            else:
                self._epochs.paid((tenant,))
        except StoreGone:
            self._owed.renew.add(tenant)

    async def claim(self, name: str, value: str) -> str | None:
        wire = self._link.wire
        if wire is None:
            return None
        try:
            answer_or_gone(await wire.call("SET", f"douane:{name}", value, "NX"))
            found = answer_or_gone(await wire.call("GET", f"douane:{name}"))
        except StoreGone:
            return None
        return found.decode() if found is not None else None

    async def healthy(self) -> bool:
        wire = self._link.wire
        if wire is None:
            return False
        try:
            return not isinstance(await wire.call("PING"), ResponseError)
        except StoreGone:
            return False

    async def accept_epoch(self, tenant: str) -> str:
        """From here the store answers for every conversation of `tenant` again: what was lost stays lost.

        Raises `StoreGone` when Redis is away.
        """
        wire = self._link.wire
        if wire is None:
            raise StoreGone(f"redis at {self._address_id} cannot be reached")
        arguments = self._epoch_arguments(tenant)[:3]
        reply = await self._eval(wire, self._scripts.accept, [self._names_of(tenant).labels], *arguments)
        if reply is None:
            raise StoreGone(f"redis at {self._address_id} did not accept it")
        epoch: str = reply.decode()
        self._epochs.learn(tenant, epoch)
        return epoch

    async def aclose(self) -> None:
        await self._link.aclose()
        await self._epochs.aclose()

    # Redis is here.

    async def _eval(
        self, wire: Wire, script: Script, keys: Sequence[str], *arguments: Argument
    ) -> Any | None:
        """The script's reply, or None when there is none and the request must go on without."""
        started_s = asyncio.get_running_loop().time()
        try:
            reply = await wire.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
            if isinstance(reply, NoScriptError):
                # Someone emptied the script cache: the one case that takes two round trips.
                async with asyncio.timeout_at(started_s + wire.timeout_s):
                    reply = await wire.call("EVAL", script.source, len(keys), *keys, *arguments)
        except (StoreGone, TimeoutError):
            return None
        if isinstance(reply, ResponseError):
            self._refused(wire, reply)
            return None
        return reply

    def _refused(self, wire: Wire, reply: ResponseError) -> None:
        """Redis answers with an error: full, read-only, loading, not allowed. That is as good as gone.

        What the refused request leaves behind is owed, and the next connection serves only once it is paid.
        """
        wire.end(f"it answers `{code_of(reply)}`")

    def _told(self, settle: Settle) -> bool:
        """Sends a settle without waiting for it; commands on one connection keep their order."""
        wire = self._link.wire
        if wire is None:
            return False
        self._send_settle(wire, settle).add_done_callback(ignore_outcome)
        return True

    def _send_settle(self, wire: Wire, settle: Settle, timeout_s: float | None = None) -> asyncio.Future[Any]:
        names = self._names_of(settle.tenant)
        return wire.call(
            "EVALSHA", self._scripts.leave.sha, 2, names.labels, names.use + settle.key_id,
            *self._epoch_arguments(settle.tenant), 1, "", "",
            settle.reservation_id, settle.used_tokens, settle.used_usd_nano, timeout_s=timeout_s,
        )  # fmt: skip

    def _epoch_arguments(self, tenant: str) -> tuple[Argument, Argument, Argument, Argument]:
        now_ms = 0 if self._now_ms is None else self._now_ms()
        return now_ms, self._run, self._seed, self._epochs.remembered(tenant)

    def _names_of(self, tenant: str) -> Names:
        names = self._names.get(tenant)
        if names is None:
            tag = "douane:{" + quote(tenant, safe="") + "}:"
            names = self._names[tenant] = Names(
                labels=tag + "labels", use=tag + "use:", answer=tag + "a:", value=tag + "v:"
            )
        return names

    def _caps_of(self, limits: Limits) -> Caps:
        caps = self._caps.get(limits)
        if caps is None:
            caps = self._caps[limits] = caps_of(limits)
        return caps

    # Redis comes, or comes back.

    async def _prepare(self, wire: Wire) -> None:
        """Before a new connection serves: scripts, who answers, and what is owed."""
        scripts = self._scripts.each()
        loads = [wire.call("SCRIPT", "LOAD", script.source, timeout_s=TRY_S) for script in scripts]
        info = await wire.call("INFO", "server", timeout_s=TRY_S)
        for load in loads:
            answer_or_gone(await load)
        self._run = run_id(info)
        if not self._run:
            LOG.warning("redis at %s does not say its `run_id`; a failover that loses writes goes unseen",
                        self._address_id)  # fmt: skip
        self._owed.renew |= self._epochs.due
        while self._owed:  # requests go on meanwhile, and may owe more
            owed = self._owed.take()
            try:
                await self._pay(wire, owed)
            except BaseException:
                self._owed.give_back(owed)
                raise

    async def _pay(self, wire: Wire, owed: Owed) -> None:
        sent = []
        for tenant in owed.labels.keys() | owed.renew:
            renew = tenant in owed.renew
            for chunk in chunks(owed.labels.get(tenant, {})):
                sent.append(
                    wire.call(
                        "EVALSHA", self._scripts.owed.sha, 1, self._names_of(tenant).labels,
                        *self._epoch_arguments(tenant), int(renew), *chunk, timeout_s=TRY_S,
                    )
                )  # fmt: skip
                renew = False
        sent += [self._send_settle(wire, settle, TRY_S) for settle in owed.settles.values()]
        for answer in sent:
            answer_or_gone(await answer)
        self._epochs.paid(owed.labels.keys() | owed.renew)

    # Redis is away.

    def _enter_apart(self, entry: Entry) -> Entered:
        has_past = entry.conversation.vouchers > 0
        if has_past and not entry.at_ceiling:
            return Entered(frozenset(), True, False, None, None)
        self._owe(entry.tenant, entry.conversation.marks, entry.known_labels)
        asked = entry.reservation
        caps = self._caps_of(asked.limits)
        if caps.any:
            usage = self._usage.setdefault((entry.tenant, asked.key_id), Usage())
            now_ms = (self._now_ms or wall_ms)()
            overrun = usage.admit(share_of(caps, self._replicas), asked, now_ms, hit=False)
            if overrun:
                # The call that failed may have reserved all the same.
                self._owed.settle(Settle(entry.tenant, asked.key_id, asked.id, 0, 0))
                return Entered(frozenset(), has_past, True, overrun, None)
        return Entered(frozenset(), has_past, True, None, None)

    def _settle_apart(self, leaving: Leaving) -> None:
        usage = self._usage.get((leaving.tenant, leaving.reservation.key_id))
        if usage:
            usage.settle(leaving.reservation.id, leaving.used_tokens, leaving.used_usd_nano)

    def _owe(self, tenant: str, marks: Sequence[bytes], labels: frozenset[str]) -> None:
        if marks:
            self._epochs.owe(tenant)
            self._owed.note(tenant, marks, labels)


def entered(reply: list[Any]) -> Entered:
    """What `lua/enter.lua` returned."""
    status, taint = reply[0], reply[2]
    labels = frozenset(taint.decode().split(",")) if taint else frozenset()
    if status in (0, 3):
        return Entered(labels, status == 3, False, None, None)
    if reply[3]:
        return Entered(labels, status == 2, True, Overrun(reply[3].decode(), reply[4] / 1000), None)
    cached = reply[5][MARK_BYTES:] if reply[5] is not None else None
    return Entered(labels, status == 2, True, None, cached)


def joined(labels: frozenset[str]) -> str:
    return ",".join(sorted(labels))


def cap_arguments(caps: Caps) -> tuple[Argument, ...]:
    each = (caps.requests, caps.tokens, caps.usd_nano, caps.concurrent)
    return tuple("" if cap is None else cap for cap in each)


def settle_of(leaving: Leaving) -> Settle:
    reservation = leaving.reservation
    return Settle(
        leaving.tenant, reservation.key_id, reservation.id, leaving.used_tokens, leaving.used_usd_nano
    )


def chunks(labels: dict[bytes, frozenset[str]]) -> Iterator[list[Argument]]:
    """Mark and labels in turn, for commands of a bounded size; one empty chunk when there are none."""
    pairs = list(labels.items())
    for start in range(0, max(1, len(pairs)), PAID_AT_ONCE):
        yield [word for mark, own in pairs[start : start + PAID_AT_ONCE] for word in (mark, joined(own))]


def run_id(info: Any) -> str:
    """The random name that a Redis server process gives itself when it starts; '' when it does not say."""
    for line in info.splitlines() if isinstance(info, bytes) else ():
        if line.startswith(b"run_id:"):
            return str(line[len(b"run_id:") :].strip(), "ascii")
    return ""


def answer_or_gone(reply: Any) -> Any:
    """The reply. Raises `StoreGone` for an error: a connection that cannot be prepared does not serve."""
    if isinstance(reply, ResponseError):
        raise StoreGone(code_of(reply))
    return reply


def ignore_outcome(future: asyncio.Future[Any]) -> None:
    """Reads the outcome of a call that nobody waits for, so that it is not reported as forgotten."""
    if not future.cancelled():
        future.exception()
