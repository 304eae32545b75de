"""Scheduling over a simulated device that notices every wrong block and every wrong token."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_engine.kv import BLOCK_TOKENS, BlockTables, Copy, NoBlocks, Tables, tenant_salt
from local_engine.sampling import SamplingParams
from local_engine.scheduler import Limits, Plan, Reason, Scheduler, Sequence, State, blocks_needed
from tests.local_engine.simulated import STOP, SimulatedDevice, expected

WINDOW = 40
SALT = tenant_salt(None)
ENDLESS: frozenset[int] = frozenset()


@dataclass
class Bench:
    """A scheduler, a device, and up to `ahead` steps whose tokens the scheduler does not know yet."""

    scheduler: Scheduler
    device: SimulatedDevice
    ahead: int = 0
    steps: deque[tuple[Plan, list[int]]] = field(default_factory=deque)
    said: dict[Sequence, list[int]] = field(default_factory=dict)
    ended: dict[Sequence, Reason] = field(default_factory=dict)

    def step(self) -> Plan:
        """Plans, executes, and commits what is due."""
        plan = self.scheduler.plan()
        if plan.work:
            self.steps.append((plan, self.device.run(plan)))
        left = self.ahead if plan.work and not plan.synchronous else 0
        while len(self.steps) > left:
            self._commit(*self.steps.popleft())
        self.check()
        return plan

    def _commit(self, plan: Plan, tokens: list[int]) -> None:
        for sequence, token, reason in self.scheduler.commit(plan, tokens):
            self.said.setdefault(sequence, []).append(token)
            if reason is not None:
                self.ended[sequence] = reason

    def check(self) -> None:
        """What must hold between any two steps."""
        scheduler = self.scheduler
        for pool in (scheduler.blocks.full, scheduler.blocks.window):
            assert pool.free + pool.used + pool.cached == pool.total
        slots = [sequence.slot for sequence in scheduler.running]
        assert len(slots) == len(set(slots)) <= scheduler.limits.max_running
        assert all(sequence.state is State.RUNNING for sequence in scheduler.running)
        assert all(sequence.slot == -1 for sequence in scheduler.waiting)

    def run(self, most: int = 3000) -> int:
        """Steps until nothing is left; returns how many."""
        for n in range(most):
            if not (self.scheduler.running or self.scheduler.waiting or self.steps):
                return n
            self.step()
        raise AssertionError(f"not done after {most} steps")


def bench(*, running: int = 4, rows: int = 32, full: int = 60, window: int = 60, ahead: int = 0) -> Bench:
    """A bench over pools of the given sizes."""
    scheduler = Scheduler(BlockTables(full, window, WINDOW), Limits(running, rows))
    return Bench(scheduler, SimulatedDevice(WINDOW), ahead)


def request(
    on: Bench,
    prompt: list[int],
    tokens: int,
    *,
    n: int = 1,
    stop: frozenset[int] = ENDLESS,
    sync: bool = False,
) -> list[Sequence]:
    """Adds a request of `n` choices."""
    params = SamplingParams(max_tokens=tokens, stop_tokens=stop)
    made: list[Sequence] = []
    for choice in range(n):
        made.append(Sequence(choice, list(prompt), params, SALT, sync, made[0] if made else None))
        on.scheduler.add(made[-1])
    return made


@pytest.mark.parametrize("ahead", [0, 1])
def test_requests_of_all_lengths_run_together_and_each_says_what_it_says_alone(ahead: int) -> None:
    it = bench(ahead=ahead)
    requests = [request(it, [n] * (7 * n + 1), 9 + n)[0] for n in range(9)]

    it.run()

    for sequence in requests:
        prompt = sequence.tokens[: sequence.prompt_tokens]
        assert it.said[sequence] == expected(prompt, sequence.params, 0)
        assert it.ended[sequence] == "length"


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_stop_token_ends_a_sequence_and_nothing_after_it_is_said(ahead: int) -> None:
    it = bench(ahead=ahead)
    sequences = [request(it, [n, n], 300, stop=frozenset({STOP}))[0] for n in range(6)]

    it.run()

    for sequence in sequences:
        assert it.said[sequence] == expected(sequence.tokens[:2], sequence.params, 0)
        assert it.said[sequence].count(STOP) == 1
        assert it.ended[sequence] == "stop"


def test_a_prompt_is_computed_in_chunks_while_others_go_on_decoding() -> None:
    it = bench(rows=16)
    (early,) = request(it, [1], 40)
    it.step()
    (late,) = request(it, [2] * 100, 1)

    plans = [it.step() for _ in range(7)]

    assert [[(w.sequence is early, w.count) for w in plan.work] for plan in plans] == [
        *[[(True, 1), (False, 15)]] * 6,
        [(True, 1), (False, 10)],
    ]
    assert it.ended[late] == "length"


def test_the_oldest_prompt_comes_first() -> None:
    it = bench(rows=8)
    first, second = request(it, [1] * 8, 1)[0], request(it, [2] * 8, 1)[0]

    assert [work.sequence for work in it.step().work] == [first]
    assert [work.sequence for work in it.step().work] == [second]


@pytest.mark.parametrize("ahead", [0, 1])
def test_choices_compute_their_prompt_once(ahead: int) -> None:
    it = bench(ahead=ahead)
    prompt = list(range(1, 24)) * 2

    choices = request(it, prompt, 5, n=4)
    it.run()

    for choice in choices:
        assert it.said[choice] == expected(prompt, choice.params, choice.choice)
    assert len({tuple(it.said[choice]) for choice in choices}) == 4
    # The prompt, its last token again for each further choice, and four inputs of each; a step that was
    # planned ahead is not wasted here, because the limit is known beforehand.
    assert it.device.computed == len(prompt) + 3 + 4 * 4


def test_a_second_request_with_the_same_beginning_computes_the_rest_only() -> None:
    it = bench(full=200, window=200)
    prefix = [n % 23 for n in range(1000)]
    request(it, [*prefix, 1], 1)
    it.run()
    before = it.device.computed

    (second,) = request(it, [*prefix, *[2] * 20], 1)
    it.run()

    assert it.device.computed - before < 64 + 20
    assert second.cached_tokens == 992


@pytest.mark.parametrize("ahead", [0, 1])
def test_when_blocks_run_out_the_youngest_is_preempted_and_says_the_same_in_the_end(ahead: int) -> None:
    full, window = blocks_needed(100, 32, WINDOW)
    it = bench(full=full + 4, window=window + 4, ahead=ahead)
    sequences = [request(it, [n] * 30, 70)[0] for n in range(4)]

    it.run()

    assert it.scheduler.preemptions > 0
    for sequence in sequences:
        assert it.said[sequence] == expected(sequence.tokens[:30], sequence.params, 0)
    assert list(it.ended) == sequences


def test_a_preempted_sequence_finds_its_own_beginning_in_the_cache() -> None:
    it = bench(running=2, rows=32, full=12, window=12)
    request(it, [1] * 60, 60)
    (young,) = request(it, [2] * 60, 60)
    while it.scheduler.preemptions == 0:
        it.step()
    done = it.device.computed
    said = len(young.tokens)
    it.run()

    # Recomputing everything would take `said` positions more than the rest of both answers.
    rest = (120 - said) + 60
    assert it.device.computed - done < rest + said - BLOCK_TOKENS


def test_what_a_preempted_sequence_finds_of_its_own_prompt_was_not_cached() -> None:
    it = bench(running=2, full=20, window=30)
    (old,) = request(it, [1] * 100, 120)
    (young,) = request(it, [2] * 260, 5)
    while it.scheduler.preemptions == 0:
        it.step()
    assert young not in it.said
    it.run()

    assert (old.cached_tokens, young.cached_tokens) == (0, 0)


def test_a_prompt_that_waits_for_blocks_is_not_looked_up_in_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = bench(running=2, full=20, window=30)
    looked_up: list[int] = []
    look_up = it.scheduler.blocks.open
    monkeypatch.setattr(
        it.scheduler.blocks,
        "open",
        lambda salt, tokens: looked_up.append(len(tokens)) or look_up(salt, tokens),  # type: ignore[func-returns-value]
    )
    (old,) = request(it, [1] * 100, 200)
    (young,) = request(it, [2] * 100, 100)
    while it.scheduler.preemptions == 0:
        it.step()
    before, steps = len(looked_up), 0
    while old not in it.ended:
        it.step()
        steps += 1

    assert steps > 50
    assert len(looked_up) - before < 5
    it.run()
    assert it.said[young] == expected([2] * 100, young.params, 0)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_sequence_whose_reader_is_too_slow_computes_nothing_until_released(ahead: int) -> None:
    it = bench(ahead=ahead)
    (held,) = request(it, [1, 2], 20)
    (other,) = request(it, [3, 4], 20)
    it.step()
    held.held = True
    for _ in range(30):
        it.step()

    assert it.ended == {other: "length"}
    assert len(it.said[held]) <= 2

    held.held = False
    it.run()

    assert it.said[held] == expected([1, 2], held.params, 0)


def test_a_held_sequence_gives_its_blocks_to_a_prompt_that_cannot_go_on_without_them() -> None:
    full, window = blocks_needed(120, 32, WINDOW)
    it = bench(running=3, full=full + 1, window=window + 1)
    (slow,) = request(it, [1] * 60, 20)
    while slow not in it.said:
        it.step()
    slow.held = True
    (other,) = request(it, [2] * 30, 80)
    for _ in range(200):
        it.step()

    assert it.ended == {other: "length"}


def test_a_reader_found_too_slow_while_a_step_is_planned_gives_all_that_it_had_of_that_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = bench(rows=8)
    (slow,), (other,) = request(it, [1] * 5, 9), request(it, [2] * 5, 9)
    while any(sequence not in it.said for sequence in (slow, other)):
        it.step()
    (long,) = request(it, [3] * 80, 1)
    it.step()
    reserve = it.scheduler.blocks.reserve

    def short(tables: Tables, start: int, end: int) -> list[Copy]:
        # A reader is on another thread: `slow` has its row already when `other` finds no blocks.
        if tables is other.tables and slow.state is State.RUNNING:
            slow.held = True
            raise NoBlocks
        return reserve(tables, start, end)

    monkeypatch.setattr(it.scheduler.blocks, "reserve", short)
    plan = it.step()

    assert plan.preempted == (slow,)
    assert [(work.sequence, work.count) for work in plan.work] == [(other, 1), (long, 7)]

    slow.held = False
    it.run()
    for sequence in (slow, other):
        assert it.said[sequence] == expected(sequence.tokens[:5], sequence.params, 0)


@pytest.mark.parametrize("ahead", [0, 1])
def test_held_sequences_give_their_slots_to_those_that_wait_for_one(ahead: int) -> None:
    it = bench(running=3, ahead=ahead)
    slow = [request(it, [n] * 20, 20)[0] for n in range(2)]
    (busy,) = request(it, [3] * 20, 200)
    while any(sequence not in it.said for sequence in (*slow, busy)):
        it.step()
    for sequence in slow:
        sequence.held = True
    others = [request(it, [n] * 5, 30)[0] for n in range(4, 8)]
    while not it.ended:
        it.step()

    assert set(it.ended) <= set(others)
    assert sum(sequence in it.said for sequence in others) == 2

    for sequence in slow:
        sequence.held = False
    it.run()
    for sequence in slow:
        assert it.said[sequence] == expected(sequence.tokens[:20], sequence.params, 0)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("steps", range(6))
def test_cancelling_frees_everything_at_once(ahead: int, steps: int) -> None:
    it = bench(ahead=ahead, rows=16)
    choices = request(it, [5] * 40, 50, n=3)
    for _ in range(steps):
        it.step()

    assert all(it.scheduler.end(choice) for choice in choices)
    assert not any(it.scheduler.end(choice) for choice in choices)

    assert (it.scheduler.blocks.full.used, it.scheduler.blocks.window.used) == (0, 0)
    assert not it.scheduler.running
    assert not it.scheduler.waiting
    it.run()
    assert set(it.ended) == set()


def test_a_further_choice_goes_on_alone_when_the_first_is_cancelled_before_its_prompt_is_computed() -> None:
    it = bench(rows=16)
    first, second = request(it, [5] * 40, 4, n=2)
    it.step()
    it.scheduler.end(first)

    it.run()

    assert it.said == {second: expected([5] * 40, second.params, 1)}


def test_choices_that_wait_for_their_prompt_keep_nobody_else_waiting() -> None:
    it = bench(rows=16)
    request(it, [5] * 60, 4, n=2)
    (other,) = request(it, [6], 4)
    it.step()
    it.step()
    it.step()
    it.step()

    assert other.state is State.RUNNING
    it.run()
    assert len(it.ended) == 3


def test_a_step_with_a_synchronous_sequence_is_settled_before_the_next_one_is_planned() -> None:
    it = bench(ahead=1)
    (plain,) = request(it, [1], 12)
    it.step()
    (bound,) = request(it, [2], 5, sync=True)
    it.run()

    assert it.said[plain] == expected([1], plain.params, 0)
    assert it.said[bound] == expected([2], bound.params, 0)


def test_the_window_group_needs_no_more_blocks_for_a_longer_context() -> None:
    assert blocks_needed(10_000, 64, 128)[1] == blocks_needed(100_000, 64, 128)[1]


LENGTHS = st.integers(1, 70)
SUBMISSION = st.tuples(
    st.just("submit"),
    st.integers(0, 2),
    LENGTHS,
    st.integers(1, 30),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
MEDDLING = st.tuples(st.sampled_from(["cancel", "hold", "release"]), st.integers(0, 30))
ACTIONS = st.lists(st.one_of(SUBMISSION, MEDDLING, st.just(("step",)), st.just(("step",))), max_size=40)


@settings(max_examples=150, deadline=None)
@given(actions=ACTIONS, ahead=st.integers(0, 1), rows=st.integers(3, 40), spare=st.integers(0, 12))
def test_whatever_comes_and_goes_every_sequence_says_what_it_would_say_alone(
    actions: list[tuple[object, ...]], ahead: int, rows: int, spare: int
) -> None:
    full, window = blocks_needed(100, rows, WINDOW)
    it = bench(running=3, rows=rows, full=full + spare, window=window + spare, ahead=ahead)
    alive: list[Sequence] = []
    for action in actions:
        match action:
            case ("submit", int(family), int(length), int(tokens), int(n), bool(stops), bool(sync)):
                stop = frozenset({STOP}) if stops else ENDLESS
                alive += request(it, [family] * length, tokens, n=n, stop=stop, sync=sync)
            case ("step",):
                it.step()
            case (str(verb), int(at)) if alive:
                sequence = alive[at % len(alive)]
                if verb == "cancel":
                    it.scheduler.end(sequence)
                    alive.remove(sequence)
                else:
                    sequence.held = verb == "hold"
        it.check()
    for sequence in alive:
        sequence.held = False
    it.run()

    assert set(alive) <= set(it.ended)
    for sequence in alive:
        prompt = sequence.tokens[: sequence.prompt_tokens]
        assert it.said[sequence] == expected(prompt, sequence.params, sequence.choice)
    assert (it.scheduler.blocks.full.used, it.scheduler.blocks.window.used) == (0, 0)
