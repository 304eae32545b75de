"""Who computes what in the next step: continuous batching, chunked prefill, preemption. No tensors here.

A sequence waits, runs, and ends:

    WAITING  -- admitted: a slot, and blocks for its next chunk  -->  RUNNING
    RUNNING  -- blocks run out: slow readers, then the youngest  -->  WAITING, at the front
    RUNNING  -- its reader is too slow, and another needs a slot -->  WAITING, at the front
    any      -- stop token, limit, cancelled, failed             -->  ENDED

Every step first takes one row for each sequence that decodes, then fills what is left of the step's token
budget with chunks of prompts, oldest first. A step may be planned before the tokens of the step before it are
known: such a row takes its input from the device, and what it turns out not to have needed is dropped.

`plan` and `commit` are the only two verbs; between them the scheduler does not change but by `add` and `end`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal

from local_engine.kv import BLOCK_TOKENS, BlockTables, Copy, NoBlocks, Tables

if TYPE_CHECKING:
    from local_engine.sampling import SamplingParams

MAX_RUNNING = 16
"""Sequences at once, unless somebody asks for another number."""
MAX_WAITING = 64
"""Sequences that wait for a slot, likewise."""
STEP_TOKENS = 256
"""Rows of a step, likewise."""

Reason = Literal["stop", "length", "cancelled"]


class State(Enum):
    """Where a sequence is in its life."""

    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice of one request. `tokens` is the prompt and what was sampled so far.

    `computed` counts the positions whose keys and values are written or in flight, `in_flight` the sampled
    tokens that the host has not seen yet (0 or 1). `slot` is its row in everything that is kept per running
    sequence; once it had one it is `admitted`, and what it finds in the cache after a preemption it has put
    there itself. `synchronous`: its next step needs its last token on the host (a grammar reads it). `held`:
    its reader is too slow. `leader` is the first choice of the same request while this one waits for the
    prompt to be computed once for all.
    """

    choice: int
    tokens: list[int]
    params: SamplingParams
    salt: bytes
    synchronous: bool = False
    leader: Sequence | None = None
    prompt_tokens: int = 0
    state: State = State.WAITING
    computed: int = 0
    admitted: bool = False
    cached_tokens: int = 0
    in_flight: int = 0
    slot: int = -1
    held: bool = False
    tables: Tables | None = None

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def uncomputed(self) -> int:
        """Positions to compute before the next token can be sampled; 1 while decoding."""
        return len(self.tokens) + self.in_flight - self.computed


@dataclass(slots=True)
class Work:
    """Positions start .. start + count - 1 of a sequence. `samples`: the last one yields a token.

    `source` is the row among the sampled ones of the step before that holds this row's input, or -1 when the
    host knows all inputs. Nobody changes it; it is not frozen because each row of each step has one, and a
    frozen one takes four times as long to make.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    source: int = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. `copies` come before everything else; `fresh` are the sequences that got their slot in it,
    `sampling` those that get a token, in the order of the sampled rows."""

    work: tuple[Work, ...] = ()
    copies: tuple[Copy, ...] = ()
    fresh: tuple[Sequence, ...] = ()
    preempted: tuple[Sequence, ...] = ()
    sampling: tuple[Sequence, ...] = field(init=False)

    def __post_init__(self) -> None:
        sampling = tuple([work.sequence for work in self.work if work.samples])
        object.__setattr__(self, "sampling", sampling)

    @property
    def synchronous(self) -> bool:
        """True when the next step cannot be planned before this one's tokens are known."""
        return any(sequence.synchronous for sequence in self.sampling)


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_running` sequences at once, `step_tokens` rows in a step."""

    max_running: int
    step_tokens: int

    def __post_init__(self) -> None:
        assert 0 < self.max_running <= self.step_tokens, "every running sequence needs a row in a step"


def blocks_needed(tokens: int, step_tokens: int, window: int) -> tuple[int, int]:
    """The least blocks (full, window) with which one sequence of `tokens` can always run to its end.

    One more than it fills in each group: a copy-on-write holds the old block until the new one is there. The
    window holds two steps' positions, because it moves on only when a step's results are in.
    """
    full = -(-tokens // BLOCK_TOKENS)
    seen = min(full, -(-(window - 1 + 2 * step_tokens) // BLOCK_TOKENS) + 1)
    return full + 1, seen + 1


@dataclass(slots=True)
class _Draft:
    """A plan in the making."""

    room: int
    decode: list[Work] = field(default_factory=list)
    prefill: list[Work] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    fresh: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)

    def drop(self, sequence: Sequence) -> None:
        """Takes back what a sequence was to compute in this step. Copies stay: they do no harm."""
        kept = [work for work in self.decode if work.sequence is not sequence]
        self.room += len(self.decode) - len(kept)
        self.decode = kept

    def __contains__(self, sequence: Sequence) -> bool:
        """Whether a sequence is to compute anything in this step."""
        return any(work.sequence is sequence for work in (*self.decode, *self.prefill))

    @property
    def idle(self) -> bool:
        """True while nothing is to be computed."""
        return not (self.decode or self.prefill)


class Scheduler:
    """The waiting and the running sequences over one set of blocks."""

    def __init__(self, blocks: BlockTables, limits: Limits) -> None:
        self.blocks = blocks
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._slots = list(range(limits.max_running - 1, -1, -1))
        self._last: dict[Sequence, int] = {}
        self._short: tuple[Sequence | None, int, int] = (None, 0, 0)

    def add(self, sequence: Sequence) -> None:
        """Puts a new sequence at the end of the queue."""
        self.waiting.append(sequence)

    def end(self, sequence: Sequence) -> bool:
        """Ends a sequence wherever it is and frees all it holds at once. False if it had ended before."""
        if sequence.state is State.ENDED:
            return False
        if sequence.state is State.RUNNING:
            self._leave(sequence)
        else:
            self.waiting.remove(sequence)
            self._close(sequence)
        sequence.state = State.ENDED
        return True

    def plan(self) -> Plan:
        """The next step. Empty when nothing can be computed now."""
        draft = _Draft(self.limits.step_tokens)
        others = []
        for sequence in list(self.running):
            if sequence.state is State.RUNNING and self._decodes(sequence):
                self._decode(sequence, draft)
            else:
                others.append(sequence)
        for sequence in others:
            if sequence.state is State.RUNNING and sequence.uncomputed > 1 and not sequence.held:
                self._prefill(sequence, draft)
        # Blocks that a preemption has just freed are for those that still run.
        while not draft.preempted and (waiting := self._next()) is not None and self._admit(waiting, draft):
            pass
        slow = self._slow() if draft.idle or not self._slots else None
        # A reader may have become too slow since its sequence was drafted: that one stays this time.
        if slow is not None and slow not in draft and self._next() is not None:
            self._preempt(slow, draft)
        work = (*draft.decode, *draft.prefill)
        for each in work:
            each.sequence.computed += each.count
            each.sequence.in_flight += each.samples
        plan = Plan(work, tuple(draft.copies), tuple(draft.fresh), tuple(draft.preempted))
        self._last = {sequence: row for row, sequence in enumerate(plan.sampling)}
        return plan

    def commit(self, plan: Plan, tokens: Tokens[int]) -> list[tuple[Sequence, int, Reason | None]]:
        """Takes the tokens that a plan's step sampled, in row order.

        Returns (sequence, token, why it ended or None) for each that still counts. A sequence that ended or
        was preempted meanwhile keeps what it has a right to: an ended one nothing, a preempted one its token.
        """
        assert len(tokens) == len(plan.sampling), "a step gives one token for each sequence that it samples"
        drawn = iter(tokens)
        out: list[tuple[Sequence, int, Reason | None]] = []
        for work in plan.work:
            sequence = work.sequence
            token = next(drawn) if work.samples else -1
            if sequence.state is State.ENDED:
                continue
            if work.samples:
                sequence.in_flight -= 1
                sequence.tokens.append(token)
            if sequence.tables is not None and sequence.state is State.RUNNING:
                self._settle(work)
            if work.samples:
                reason = self._reason(sequence)
                if reason is not None:
                    self.end(sequence)
                out.append((sequence, token, reason))
        return out

    def disown(self, sequence: Sequence) -> None:
        """Whatever this sequence computed is not to be found by a later one."""
        if sequence.tables is not None:
            self.blocks.disown(sequence.tables)

    def _decodes(self, sequence: Sequence) -> bool:
        known = len(sequence.tokens) + sequence.in_flight
        if sequence.held or known - sequence.computed != 1:
            return False
        if sequence.in_flight and sequence.synchronous:
            return False
        return known - sequence.prompt_tokens < sequence.params.max_tokens

    def _decode(self, sequence: Sequence, draft: _Draft) -> None:
        while not self._take(sequence, 1, draft):
            victim = self._slow() or self.running[-1]
            self._preempt(victim, draft)
            if victim is sequence:
                return

    def _prefill(self, sequence: Sequence, draft: _Draft) -> None:
        """One chunk, if room and blocks are there or can be had from those behind it."""
        while draft.room and not self._take(sequence, draft.room, draft):
            # As long as somebody computes, blocks come back by themselves.
            victim = self._slow() or self.running[-1]
            if not draft.idle or victim is sequence:
                return
            self._preempt(victim, draft)

    def _next(self) -> Sequence | None:
        """The first that waits for a slot, and neither for its reader nor for its leader."""
        ready = (s for s in self.waiting if not s.held and not self._awaits_leader(s))
        return next(ready, None)

    def _slow(self) -> Sequence | None:
        """The youngest that has a slot and whose reader is too slow: the first to be preempted."""
        return next((sequence for sequence in reversed(self.running) if sequence.held), None)

    def _admit(self, sequence: Sequence, draft: _Draft) -> bool:
        """Starts a waiting sequence. False if it must wait on, and with it those behind it."""
        if not self._slots or not draft.room:
            return False
        if sequence.tables is None:
            # A long prompt takes longer to look up than a step should: not while nothing came free.
            if not draft.idle and self._still_short(sequence):
                return False
            sequence.tables, sequence.computed = self.blocks.open(sequence.salt, sequence.tokens)
        if not self._take(sequence, draft.room, draft):
            self._close(sequence)
            self._short = (sequence, self.blocks.full.available, self.blocks.window.available)
            return False
        if not sequence.admitted:
            sequence.cached_tokens = sequence.computed
        sequence.admitted = True
        self.waiting.remove(sequence)
        sequence.state = State.RUNNING
        sequence.slot = self._slots.pop()
        self.running.append(sequence)
        draft.fresh.append(sequence)
        return True

    def _still_short(self, sequence: Sequence) -> bool:
        """Whether this one lacked blocks when last tried, and neither group has more of them now."""
        last, full, window = self._short
        return (
            last is sequence and self.blocks.full.available <= full and self.blocks.window.available <= window
        )

    def _take(self, sequence: Sequence, most: int, draft: _Draft) -> bool:
        """Drafts the sequence's next positions, at most `most`. False, and nothing done, without blocks."""
        assert sequence.tables is not None
        start, left = sequence.computed, sequence.uncomputed
        count = min(left, most)
        while True:
            try:
                copies = self.blocks.reserve(sequence.tables, start, start + count)
                break
            except NoBlocks:
                if not self._reclaim(sequence):
                    return False
        source = self._last[sequence] if sequence.in_flight else -1
        work = Work(sequence, start, count, count == left, source)
        (draft.decode if count == left == 1 else draft.prefill).append(work)
        draft.copies += copies
        draft.room -= count
        return True

    def _reclaim(self, but: Sequence) -> bool:
        """Takes the blocks of one that waits with a fork; they stay in the cache. False: none does."""
        for sequence in reversed(self.waiting):
            if sequence.tables is not None and sequence is not but:
                self._close(sequence)
                return True
        return False

    def _awaits_leader(self, sequence: Sequence) -> bool:
        """A further choice waits until the first one has computed their prompt, if that one still will."""
        leader = sequence.leader
        if leader is None or sequence.tables is not None:
            return False
        return leader.state is not State.ENDED and len(leader.tokens) == leader.prompt_tokens

    def _settle(self, work: Work) -> None:
        """The work's positions are computed: forks that waited for them, then blocks published and left."""
        sequence = work.sequence
        assert sequence.tables is not None
        end = work.start + work.count
        if work.samples and end == sequence.prompt_tokens:
            for follower in self.waiting:
                if follower.leader is sequence and follower.tables is None and end > 1:
                    follower.tables = self.blocks.fork(sequence.tables, end - 1)
                    follower.computed = end - 1
        self.blocks.advance(sequence.tables, sequence.tokens, end)

    def _reason(self, sequence: Sequence) -> Reason | None:
        if sequence.tokens[-1] in sequence.params.stop_tokens:
            return "stop"
        made = len(sequence.tokens) - sequence.prompt_tokens
        return "length" if made >= sequence.params.max_tokens else None

    def _preempt(self, sequence: Sequence, draft: _Draft) -> None:
        draft.drop(sequence)
        draft.preempted.append(sequence)
        self.preemptions += 1
        self._leave(sequence)
        sequence.state = State.WAITING
        self.waiting.appendleft(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._slots.append(sequence.slot)
        sequence.slot = -1
        self._close(sequence)

    def _close(self, sequence: Sequence) -> None:
        if sequence.tables is not None:
            self.blocks.close(sequence.tables)
            sequence.tables = None
        sequence.computed = 0
