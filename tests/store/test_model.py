"""Both stores against one simple model, through random histories."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gateway.facts import Limits
from gateway.store.base import Conversation, Entered, Entry, Put
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from tests.redis_server import RedisServer
from tests.store.requests import PATIENT_S, ManualNow, entry, leaving, mark, saying

pytestmark = pytest.mark.needs("redis-server")

MARKS = ("a", "b", "c", "d", "e")
marks = st.lists(st.sampled_from(MARKS), max_size=3, unique=True).map(tuple)
labels = st.frozensets(st.sampled_from(["internal", "personal", "health"])).map(
    lambda some: some | {"public"}
)
keys = st.sampled_from(["k1", "k2"])
LIMITS = Limits(requests_per_minute=6, tokens_per_minute=60, usd_per_day=100e-9, max_concurrent=3)
MINUTE_MS, WINDOW_MS, DAY_MS, HELD_MS = 60_000, 65_000, 86_400_000, 900_000


class Ledger:
    """What must hold, said as plainly as possible: every grant is remembered with its time, for ever."""

    def __init__(self) -> None:
        self.carried: dict[bytes, frozenset[str]] = {}
        self.grants: list[dict[str, Any]] = []
        self.values: dict[str, tuple[bytes, int, str | None]] = {}

    def taint(self, conversation: Conversation) -> frozenset[str]:
        return frozenset().union(*(self.carried.get(one, frozenset()) for one in conversation.marks))

    def record(self, marks: Iterable[bytes], names: frozenset[str]) -> None:
        for one in marks:
            self.carried[one] = self.carried.get(one, frozenset()) | names

    def value(self, key: str, now_ms: int) -> tuple[bytes | None, str | None]:
        data, until_ms, answer = self.values.get(key, (b"", 0, None))
        return (data, answer) if until_ms > now_ms else (None, None)

    def used(self, field: str, since_ms: int) -> int:
        return sum(grant[field] for grant in self.grants if grant["ms"] > since_ms)

    def at_work(self, now_ms: int) -> int:
        return sum(grant["open"] and grant["ms"] + HELD_MS > now_ms for grant in self.grants)


class Stores(RuleBasedStateMachine):
    """Every answer is compared between the stores, and with what the ledger allows."""

    server: RedisServer
    directory: Path
    numbers: Iterator[int] = itertools.count()

    @initialize()
    def open(self) -> None:
        with redis.Redis(port=self.server.port) as client:
            client.flushall()
        self.now = ManualNow()
        self.ledger = Ledger()
        self.held: list[Entry] = []
        self.runner = asyncio.Runner()
        state = self.directory / str(next(self.numbers))
        self.memory = self.runner.run(MemoryStore.open(state_dir=state / "memory", now_ms=self.now))
        self.redis = self.runner.run(
            RedisStore.open(self.server.url, state_dir=state / "redis", now_ms=self.now, timeout_s=PATIENT_S)
        )

    @rule(
        earlier=marks,
        latest=marks,
        known=labels,
        key=keys,
        tokens=st.integers(0, 30),
        nano=st.integers(0, 40),
    )
    def enter(
        self,
        earlier: tuple[str, ...],
        latest: tuple[str, ...],
        known: frozenset[str],
        key: str,
        tokens: int,
        nano: int,
    ) -> None:
        ledger, now_ms = self.ledger, self.now.ms
        new = [one for one in latest if one not in earlier]
        asked = entry(
            saying(*new, after=earlier), known, limits=LIMITS, tokens=tokens, usd_nano=nano, cache_key=key
        )
        answer = self.both_enter(asked)
        taint = ledger.taint(asked.conversation)
        if not taint <= known:
            assert answer == Entered(taint, False, False, None, None)
            return
        ledger.record(asked.conversation.marks, known)
        cached, told = ledger.value(key, now_ms)
        grant = {
            "id": asked.reservation.id,
            "ms": now_ms,
            "requests": 1,
            "tokens": 0,
            "nano": 0,
            "open": False,
        }
        if cached is None:
            grant |= {"tokens": tokens, "nano": nano, "open": True}
        if answer.overrun is None:
            assert answer == Entered(taint, False, True, None, cached)
            ledger.grants.append(grant)
            if cached is None:
                self.held.append(asked)
            elif told is not None:
                ledger.record([mark(told)], known)
            self.within_limits()
        else:
            assert answer.accepted
            self.out_of_room(answer.overrun.limit, grant)

    @rule(
        data=st.data(),
        used=st.integers(0, 50),
        nano=st.integers(0, 50),
        names=labels,
        answer=st.none() | st.sampled_from(MARKS),
        key=st.none() | keys,
    )
    def leave(
        self,
        data: st.DataObject,
        used: int,
        nano: int,
        names: frozenset[str],
        answer: str | None,
        key: str | None,
    ) -> None:
        if not self.held:
            return
        of = data.draw(st.sampled_from(self.held))
        kept = None if key is None else Put(key, f"{key}{next(self.numbers)}".encode(), 30)
        left = leaving(of, tokens=used, usd_nano=nano, labels=names, answer=answer, cached=kept)
        for store in (self.memory, self.redis):
            self.runner.run(store.leave(left))
        ledger = self.ledger
        if answer is not None:
            ledger.record([mark(answer)], names)
        if kept is not None:
            ledger.values[kept.key] = (kept.value, self.now.ms + kept.ttl_s * 1000, answer)
        grant = next(one for one in ledger.grants if one["id"] == of.reservation.id)
        if grant["open"] and grant["ms"] + HELD_MS > self.now.ms:
            grant |= {"tokens": used, "nano": nano}
        grant["open"] = False
        self.held.remove(of)

    @rule(seconds=st.sampled_from([1, 7, 33, 61, 66, 400, 901, 86_400]))
    def wait(self, seconds: int) -> None:
        # One that lapses while nobody looks may still be settled; the ledger knows only the strict rule.
        for of in self.held if seconds >= 400 else []:
            for store in (self.memory, self.redis):
                self.runner.run(
                    store.leave(leaving(of, tokens=of.reservation.tokens, usd_nano=of.reservation.usd_nano))
                )
            next(one for one in self.ledger.grants if one["id"] == of.reservation.id)["open"] = False
        if seconds >= 400:
            self.held.clear()
        # Redis forgets values by its own clock, which does not move: here they are written over instead.
        self.now.pass_s(seconds)
        for key in [key for key, (_, until_ms, _) in self.ledger.values.items() if until_ms <= self.now.ms]:
            with redis.Redis(port=self.server.port) as client:
                client.delete("douane:{acme}:a:" + key)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.memory.aclose())
            self.runner.run(self.redis.aclose())
            self.runner.close()

    def both_enter(self, asked: Entry) -> Entered:
        answers = [self.runner.run(store.enter(asked)) for store in (self.memory, self.redis)]
        assert answers[0] == answers[1]
        return answers[0]

    def within_limits(self) -> None:
        """Reservations never overrun; what was settled above its reservation may."""
        now_ms, ledger = self.now.ms, self.ledger
        assert ledger.used("requests", now_ms - MINUTE_MS) <= 6
        assert ledger.at_work(now_ms) <= 3

    def out_of_room(self, limit: str, asked: dict[str, Any]) -> None:
        """A refusal has its reason: the limit it names really leaves no room for this request."""
        now_ms, ledger = self.now.ms, self.ledger
        today_ms = now_ms - now_ms % DAY_MS
        rooms = {
            "requests_per_minute": ledger.used("requests", now_ms - WINDOW_MS) + 1 > 6,
            "tokens_per_minute": ledger.used("tokens", now_ms - WINDOW_MS) + asked["tokens"] > 60,
            "usd_per_day": ledger.used("nano", today_ms - 1) + asked["nano"] > 100,
            "max_concurrent": ledger.at_work(now_ms) >= 3,
        }
        assert rooms[limit]


def test_both_stores_do_as_the_model_says(redis_server: RedisServer, tmp_path: Path) -> None:
    machine = type("Machine", (Stores,), {"server": redis_server, "directory": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
