"""Plays a world against a gateway, and judges all that reaches a place by the source of the bundles.

What counts as evidence is what each place really received: the ledgers of the regions and servers, the calls
of the store, the records of the audit, the lines of the log, the answer that the caller got. What counts as
permitted is what `verdicts` reads off the source.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gateway.policy.bundle import Bundle
from gateway.store.base import Entered, Entry, Leaving, Put
from tests.gateway.inprocess import Client
from tests.policy.bundles import compiled
from tests.residency.house import CURRENT, House
from tests.residency.servers import MARK, Outside
from tests.residency.verdicts import NOTHING_SAYS_SO, Asked, Verdicts
from tests.residency.worlds import (
    AUDIT,
    BACKENDS,
    GATEWAY,
    HEDGE_AFTER_S,
    LOGS,
    STORE,
    TERMINATOR,
    Step,
    World,
    api_key,
    files_of,
)

SAID_BY = re.compile(r"emulated Bedrock, ([a-z0-9-]+), no model|said by ([a-z0-9-]+) of")


# Turns of the event loop in which a request that has been sent on loopback is read by its server.
LATE_TURNS = 50


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that left the permitted set: in which world, at which step, what, and where."""

    seed: str
    step: int
    what: str
    place: str

    def __str__(self) -> str:
        return f"world `{self.seed}`, step {self.step}: {self.what} at `{self.place}`"


@dataclass(slots=True)
class Talk:
    """A conversation as its client has it, and the labels that were ever sent under its session id."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    carried: frozenset[str] = frozenset()


@dataclass(slots=True)
class Case:
    """One request while it is under way; told by the store, the audit and the outside what reaches them.

    `opening` are the revisions under which it may have come in, `in_force` those that have been in force
    since the gateway last had a chance to look. Whatever is done must be permitted by one of each.
    """

    play: Play
    number: int
    step: Step
    mark: str
    says: Asked  # by its key and header alone
    asked: Asked  # with all that its conversation has carried
    opening: set[int]
    in_force: set[int]
    todo: list[str]
    ever: set[int] = field(default_factory=set)
    arrivals: list[str] = field(default_factory=list)
    seen: bool = False
    told: bool = False  # of its past, by the store
    accepted: bool = False
    swapped: bool = False
    others: list[tuple[asyncio.Event, asyncio.Event]] = field(default_factory=list)  # of slow tries

    @property
    def store_up(self) -> bool:
        return self.step.store != "out"

    @property
    def audit(self) -> str:
        return self.step.audit

    def permitted(self, action: str, place: str, revisions: Iterable[int]) -> bool:
        return any(self.play.may(revision, self.asked, action, place) for revision in revisions)

    def require(self, what: str, action: str, place: str, *, now: bool = True) -> None:
        """It happened: was it permitted when the request came in, and (`now`) is it still?"""
        self.seen = True
        if not self.permitted(action, place, self.opening):
            self.play.violated(self.number, what, place)
        elif now and not self.permitted(action, place, self.in_force):
            self.play.violated(self.number, f"{what}, which a newer revision had withdrawn,", place)

    async def moment(self, name: str) -> None:
        """The gateway waits for an answer to this: what comes into force now is in force when it goes on."""
        if self.step.swap_at == name and not self.swapped:
            self.swapped = True
            await self.play.swap(self)
        self.in_force = {self.play.revision}

    # What the store was told.

    async def entered(self, entry: Entry, entered: Entered) -> None:
        self.seen = self.told = True
        if not entered.accepted:
            self.play.seen["taint corrected"] += 1
            return
        self.accepted = True
        self.require("a request was read", "infer", GATEWAY, now=False)
        self.require("a request was read", "infer", TERMINATOR, now=False)
        if self.store_up:
            self.require("a record was kept", "record", STORE, now=False)
            if not self.asked.labels <= entry.known_labels:
                self.play.violated(self.number, "labels were forgotten", STORE)
            if entry.cache_key is not None:
                self.play.seen["cache looked up"] += 1
                self.require("a copy was looked for", "cache", STORE, now=False)
        else:
            self.play.seen["store out"] += 1
        await self.moment("entered")

    def left(self, leaving: Leaving) -> None:
        if leaving.cached is not None:
            self.play.seen["cache written"] += 1
            self.require("a copy was kept", "cache", STORE)
            self.require_sealed(leaving.cached)
        for put in leaving.puts:
            self.play.seen["receipt kept"] += 1
            self.require("a receipt was kept", "record", STORE)
            self.require_sealed(put)

    def require_sealed(self, put: Put) -> None:
        if MARK.search(put.value):
            self.play.violated(self.number, "words were kept in the clear", STORE)

    # What the audit was told.

    async def recorded(self, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "refused" and not self.told:
            # Turned away before its past was read: all that it carries is what it says.
            allowed = "labels" not in fields or any(
                self.play.may(revision, self.says, "record", AUDIT) for revision in self.opening
            )
            if not allowed:
                self.play.violated(self.number, "a record (refused) was written", AUDIT)
        else:
            self.require(f"a record ({kind}) was written", "record", AUDIT, now=False)
        if MARK.search(orjson.dumps(fields)):
            self.play.violated(self.number, "words were written down", AUDIT)
        if kind == "end":
            self.count_attempts(fields["attempts"])
        # A copy is on its way to the caller once its end is written: what comes after recalls nothing.
        told = self.in_force if kind == "end" and fields["cache"] == "hit" else set()
        await self.moment({"begin": "begun", "end": "ended", "refused": "refused"}[kind])
        self.in_force |= told

    # What the content log was told.

    def logged(self, line: bytes) -> None:
        """It asks at the moment at which it writes: the one revision in force then must permit it too."""
        sealed = "sealed" in orjson.loads(line)
        self.play.seen["content logged" if sealed else "digests logged"] += 1
        asked = self.asked if self.told else self.says  # turned away before its past was read
        for action in ("record", "log") if sealed else ("record",):
            for revisions in (self.opening, {self.play.revision}):
                if not any(self.play.may(revision, asked, action, LOGS) for revision in revisions):
                    self.play.violated(self.number, f"a line that takes `{action}` was logged", LOGS)
        if MARK.search(line):
            self.play.violated(self.number, "words were logged in the clear", LOGS)

    def failed_to_log(self) -> None:
        self.play.violated(self.number, "the content log failed", LOGS)

    def count_attempts(self, attempts: list[Mapping[str, Any]]) -> None:
        for attempt in attempts:
            withdrawn = attempt["outcome"] == "withdrawn"
            self.play.seen["attempt withdrawn" if withdrawn else f"attempt: {attempt['kind']}"] += 1

    # What the outside was sent.

    async def arrived(self, where: str) -> str:
        self.arrivals.append(where)
        self.require("a request was sent", "infer", where)
        if self.play.live.get(self.mark) is not self:
            return ""  # a call that was given up, and arrives late
        todo = self.todo.pop(0) if self.todo else ""
        if todo == "cut later" and self.step.stream:
            self.play.seen["stream cut"] += 1
        others, self.others = self.others, []
        for begun, _ in others:
            begun.set()
        await self.moment(f"try {len(self.arrivals)}")
        for _, done in others:
            done.set()
        if todo == "slow":
            await self.be_slow()
        return todo

    async def be_slow(self) -> None:
        """Lets the gateway grow impatient; if it then asks elsewhere, the other request arrives first."""
        begun, done = asyncio.Event(), asyncio.Event()
        self.others.append((begun, done))
        self.play.house.context.clock.advance(HEDGE_AFTER_S)  # type: ignore[attr-defined]
        try:
            await asyncio.wait_for(begun.wait(), 0.03)
        except TimeoutError:
            return  # it does not hedge, or has nowhere to
        await done.wait()

    # What the caller was told.

    def answered(self, client: Client) -> None:
        seen = self.play.seen
        if client.status == 200 or self.arrivals:
            seen["permitted"] += 1
        if client.status == 403 and b'"residency_denied"' in client.answer:
            seen["refused"] += 1
            self.require_reason()
        if client.status == 500:
            self.play.violated(self.number, "the gateway failed (a bug, or a guard of last resort)", GATEWAY)
        if client.status == 200 and client.header("x-douane-cache") == "hit":
            seen["cache hit"] += 1
            said = answer_of(client, self.step)[0]["content"]
            origin = SAID_BY.search(said)
            assert origin is not None, said
            where = origin[1] or origin[2]
            self.require("a copy was told that was made", "infer", where)
            self.require("a copy was told that was kept", "cache", STORE)
            if self.play.owners[self.mark] != self.step.tenant:
                self.play.violated(self.number, "a copy was told of another tenant", STORE)

    def require_reason(self) -> None:
        """A refusal for which no rule of the source gives a reason means that one of us cannot read."""
        plain = self.step.again is None and not self.play.unsure and not self.swapped
        if not plain or len(self.opening) > 1:
            return
        (revision,) = self.opening
        doors = [("infer", GATEWAY), ("infer", TERMINATOR), ("record", STORE), ("record", AUDIT)]
        if all(self.permitted(action, place, [revision]) for action, place in doors) and any(
            self.permitted("infer", place, [revision]) for place in BACKENDS
        ):
            self.play.violated(self.number, "a request was refused that is permitted", GATEWAY)


@dataclass(slots=True)
class Play:
    """One world being played. `seen` counts what happened, `violations` what should not have."""

    world: World
    house: House
    outside: Outside
    seen: Counter[str]
    violations: list[Violation] = field(default_factory=list)
    revision: int = 0
    unsure: bool = False  # pasts were lost: requests may be judged at more labels than they carry
    live: dict[str, Case] = field(default_factory=dict)
    over: dict[str, Case] = field(default_factory=dict)  # a call that was given up may arrive late
    owners: dict[str, str] = field(default_factory=dict)
    talks: dict[int, Talk] = field(default_factory=dict)
    sent: dict[int, tuple[list[dict[str, Any]], str]] = field(default_factory=dict)
    losses: int = 0
    carried: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)  # by mark, since which loss
    bundles: list[Bundle] = field(default_factory=list)
    verdicts: list[Verdicts] = field(default_factory=list)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    busy: int = 0  # requests that the outside has not answered yet
    judged: Counter[str] = field(default_factory=Counter)

    def may(self, revision: int, asked: Asked, action: str, place: str) -> bool:
        verdicts = self.verdicts[revision]
        if place in self.outside.regions:
            return verdicts.may_in_region(asked, place)
        return verdicts.may(asked, action, place)

    def violated(self, step: int, what: str, place: str) -> None:
        self.violations.append(Violation(self.world.seed, step, what, place))

    async def run(self) -> None:
        """Plays every step. The gateway must have nothing under way."""
        world = self.world
        self.bundles = [
            compiled(files_of(content, serial + 1)).bundle for serial, content in enumerate(world.revisions)
        ]
        self.verdicts = [Verdicts(content) for content in world.revisions]
        self.house.tell_of_swaps(self.came_into_force)
        await self.house.enter(self.bundles[0], audit_failure="refuse" if len(world.seed) % 2 else "continue")
        self.outside.told[0] = self.arrived
        before = self.outside.received()
        self.idle.set()
        for wave in waves(world.steps):
            lost = any(world.steps[number].store != "up" for number in wave)
            self.unsure = self.unsure or lost
            await asyncio.gather(*(self.step(number) for number in wave))
            if lost:
                self.losses += 1
                await self.house.lose_the_store()
        for _ in range(LATE_TURNS):  # calls that were given up arrive, and are written down
            await asyncio.sleep(0)
            await self.idle.wait()
        self.compare_ledgers(before)
        for line in self.house.lines:
            if MARK.search(line.encode()):
                self.violated(len(world.steps), "words were logged", "logs")
        self.house.lines.clear()
        self.count_rules()

    async def swap(self, case: Case) -> None:
        """The next revision comes into force while `case` is under way."""
        await self.house.swap(self.bundles[(self.revision + 1) % len(self.bundles)])
        self.seen["swapped in flight"] += 1
        places = (*self.outside.regions, *self.outside.servers)
        if any(
            case.permitted("infer", place, case.opening)
            and not case.permitted("infer", place, [self.revision])
            for place in places
        ):
            self.seen["swap withdraws"] += 1

    def came_into_force(self, bundle: Bundle) -> None:
        self.revision = next(n for n, known in enumerate(self.bundles) if known.revision == bundle.revision)
        for case in self.live.values():
            case.in_force.add(self.revision)
            case.ever.add(self.revision)
            if not case.seen:
                case.opening.add(self.revision)

    async def arrived(self, where: str, mark: str, body: bytes) -> str:
        case = self.live.get(mark) or self.over.get(mark)
        self.judged[where] += 1
        if case is None:
            self.violated(len(self.world.steps), "a request arrived that nobody has asked", where)
            return ""
        self.busy += 1
        self.idle.clear()
        try:
            return await case.arrived(where)
        finally:
            self.busy -= 1
            if not self.busy:
                self.idle.set()

    async def step(self, number: int) -> None:
        step = self.world.steps[number]
        talk = self.talks.setdefault(step.conversation, Talk())
        if step.again is None:
            mark = f"mark{hashlib.sha256(self.world.seed.encode()).hexdigest()[:12]}x{number}z"
            messages = [*talk.messages, {"role": "user", "content": f"[[silent]] {mark}"}]
        else:
            messages, mark = self.sent[step.again]
        self.sent[number] = (messages, mark)
        # A message that is sent anew carries what it has carried, whatever stands around it. While the store
        # is out, and after a loss, only what was said before this turn does: what came after the last answer
        # may be new, and nobody can look.
        said_before = set(marks_of(before_this_turn(messages)))
        known = [
            labels
            for one in {*marks_of(messages)} & self.carried.keys()
            for losses, labels in [self.carried[one]]
            if one in said_before or (losses == self.losses and step.store != "out")
        ]
        carried = frozenset().union(*known)
        if step.session:
            carried |= talk.carried
        self.owners.setdefault(mark, step.tenant)
        if step.forgotten:
            self.house.forget()
        for place in BACKENDS:
            self.house.context.health.reported(place, 1, 9 if place in step.waiting else 0)
        says = self.asked(step, frozenset())
        asked = replace(says, labels=says.labels | carried)
        case = Case(self, number, step, mark, says, asked, {self.revision}, {self.revision},
                    list(step.script))  # fmt: skip
        case.ever.add(self.revision)
        self.live[mark] = case
        CURRENT.set(case)
        client = self.client(step, messages)
        await client.ask(self.house.context)
        case.answered(client)
        case.in_force = case.ever  # for what is on its way still: it may have been sent at any time
        self.over[mark] = self.live.pop(mark)
        for begun, done in case.others:  # of places that were given up
            begun.set()
            done.set()
        self.seen["cases"] += 1
        if case.audit != "up":
            self.seen["audit failed"] += 1
        self.house.context.clock.advance(step.wait_s)  # type: ignore[attr-defined]
        if case.accepted:
            talk.carried |= case.asked.labels
            for one in {*marks_of(messages)}:
                self.remember(one, case.asked.labels)
            if step.again is None:
                talk.messages = [*messages, *answer_of(client, step)]

    def remember(self, mark: str, labels: frozenset[str]) -> None:
        """Notes what a message was sent with.

        The store forgets in a loss: a message begins anew with what it is sent with then.
        """
        losses, before = self.carried.get(mark, (self.losses, frozenset()))
        self.carried[mark] = (self.losses, labels | (before if losses == self.losses else frozenset()))

    def asked(self, step: Step, carried: frozenset[str]) -> Asked:
        verdicts = self.verdicts[self.revision]
        tenant = verdicts.tenant(step.tenant)
        key = next(key for key in tenant["keys"] if key["id"] == step.key)
        labels = verdicts.said_of(step.tenant, step.key, step.labels) | carried
        return Asked(step.tenant, key.get("purpose", tenant["purpose"]), step.model, labels)

    def client(self, step: Step, messages: list[dict[str, Any]]) -> Client:
        body: dict[str, Any] = {"model": step.model, "messages": messages, "stream": step.stream}
        if step.session:
            body["metadata"] = {"session_id": f"session-{step.conversation}"}
        headers = [(b"authorization", f"Bearer {api_key(step.tenant, step.key)}".encode())]
        if step.labels is not None:
            headers.append((b"x-douane-labels", step.labels.encode()))
        return Client(json.dumps(body).encode(), tuple(headers))

    def compare_ledgers(self, before: Mapping[str, int]) -> None:
        """Nothing stands in a ledger that was not judged when it arrived."""
        for place, count in self.outside.received().items():
            if count - before[place] != self.judged[place]:
                self.violated(len(self.world.steps), "the ledger has more requests than were judged", place)

    def count_rules(self) -> None:
        """How often each kind of rule has had the last word, by effect and by each condition that it has."""
        for verdicts in self.verdicts:
            for rule in verdicts.source["residency"]:
                times = verdicts.decided.get(rule["id"], 0)
                for kind in kinds_of(rule):
                    self.seen[f"rule: {kind}"] += times
            self.seen["rule: none decides"] += verdicts.decided.get(NOTHING_SAYS_SO, 0)


def kinds_of(rule: Mapping[str, Any]) -> list[str]:
    """`permit when place_in`, `forbid unless attested`, … of each condition; `permit always` without one."""
    effect = "permit" if "permit" in rule else "forbid"
    kinds = [f"{effect} {part} {key}" for part in ("when", "unless") for key in rule.get(part, ())]
    return kinds or [f"{effect} always"]


def waves(steps: tuple[Step, ...]) -> list[list[int]]:
    """The steps in order, those that are to be under way at the same time together."""
    found: list[list[int]] = []
    for number, step in enumerate(steps):
        if step.together and found:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def before_this_turn(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All up to the last answer; where there is none, all but the last message."""
    answers = [number for number, one in enumerate(messages) if one["role"] == "assistant"]
    return messages[: answers[-1] + 1] if answers else messages[:-1]


def marks_of(messages: list[dict[str, Any]]) -> list[str]:
    """The marks of all messages, the answers' too."""
    return [mark.decode() for one in messages for mark in MARK.findall(one["content"].encode())]


def answer_of(client: Client, step: Step) -> list[dict[str, Any]]:
    """What the client adds to its history: the assistant's words, if there are whole ones."""
    if client.status != 200:
        return []
    if not step.stream:
        return [
            {"role": "assistant", "content": orjson.loads(client.answer)["choices"][0]["message"]["content"]}
        ]
    events = [line[6:] for line in client.answer.split(b"\n") if line.startswith(b"data: {")]
    said = [
        choice["delta"].get("content") or ""
        for event in events
        for choice in orjson.loads(event).get("choices", ())
    ]
    return [{"role": "assistant", "content": "".join(said)}] if any(said) else []
