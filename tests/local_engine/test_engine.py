"""The engine's worker over a simulated device: order, ends, limits, failures, shutdown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from local_engine.engine import Engine
from local_engine.errors import Busy, DeviceLost, Fault, Refused, Stopping
from local_engine.generation import Generation
from local_engine.kv import BlockTables, tenant_salt
from local_engine.sampling import SamplingParams
from local_engine.scheduler import Limits, Plan, Scheduler
from local_engine.steps import Failed, Finished, Grammar, Sampled, Token
from tests.local_engine.recorded import PATIENCE_S, Request, submit
from tests.local_engine.simulated import STOP, SimulatedDevice, expected

WINDOW = 40
ENDLESS: frozenset[int] = frozenset()


@dataclass
class Done:
    """A step's results, there at once."""

    sampled: list[Sampled]

    def results(self) -> list[Sampled]:
        """As they are."""
        return self.sampled


@dataclass
class SimulatedRunner:
    """A simulated device as a runner. `gate` closed, a step waits; `spoil` may change or break it."""

    device: SimulatedDevice
    overlaps: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    spoil: Callable[[Plan, list[int]], list[int]] = lambda plan, tokens: tokens
    plans: list[Plan] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def launch(self, plan: Plan, grammars: Sequence[Grammar | None]) -> Done:
        """One step."""
        assert self.gate.wait(PATIENCE_S)
        self.threads.add(threading.current_thread().name)
        self.plans.append(plan)
        for grammar in grammars:
            if grammar is not None:
                grammar.fill(Mask())
        return Done([Sampled(token, None) for token in self.spoil(plan, self.device.run(plan))])


class Mask:
    """Stands for a row of the mask."""

    def fill(self, value: int) -> None:
        """Nothing to fill."""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Bench:
    """An engine with its device, closed at the end of a test."""

    engine: Engine
    runner: SimulatedRunner
    clock: Clock
    lost: list[str]

    def start(self, *, open_gate: bool = True) -> None:
        """Starts the worker."""
        if open_gate:
            self.runner.gate.set()
        self.engine.start()


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    """Makes benches, and closes them."""
    made: list[Bench] = []

    def build(*, running: int = 3, waiting: int = 2, overlaps: bool = False, blocks: int = 100) -> Bench:
        runner = SimulatedRunner(SimulatedDevice(WINDOW), overlaps)
        scheduler = Scheduler(BlockTables(blocks, blocks, WINDOW), Limits(running, 32))
        clock, lost = Clock(), list[str]()
        engine = Engine(
            runner,
            scheduler,
            max_context_tokens=400,
            max_waiting=waiting,
            clock=clock,
            on_lost=lambda: lost.append("lost"),
        )
        made.append(Bench(engine, runner, clock, lost))
        return made[-1]

    yield build
    for bench in made:
        bench.runner.gate.set()
        bench.engine.close()


def a_request(
    seed: int, tokens: int = 10, *, n: int = 1, stop: frozenset[int] = ENDLESS, **more: Any
) -> Request:
    """A request with a prompt of its own."""
    return Request([seed] * (seed + 2), SamplingParams(max_tokens=tokens, stop_tokens=stop), n, **more)


def answer_of(request: Request, choice: int = 0) -> list[int]:
    """What the request must say."""
    return expected(request.prompt, request.params, choice)


@pytest.mark.parametrize("overlaps", [False, True])
def test_every_request_gets_its_tokens_in_order_and_then_one_end(
    make: Callable[..., Bench], overlaps: bool
) -> None:
    bench = make(overlaps=overlaps)
    requests = [a_request(1), a_request(2, 200, stop=frozenset({STOP})), a_request(3, 5, n=2)]
    for request in requests:
        submit(bench.engine, request)
    bench.start()

    for request in requests:
        request.wait()
        assert request.tokens == {choice: answer_of(request, choice) for choice in range(request.n)}
        for choice in range(request.n):
            mine = [s for s in request.steps if not isinstance(s, Failed) and s.choice == choice]
            assert [type(step) for step in mine] == [Token] * len(request.tokens[choice]) + [Finished]
    assert [request.steps[-1].reason for request in requests[::2]] == ["length", "length"]  # type: ignore[union-attr]
    assert requests[1].tokens[0][-1] == STOP
    assert requests[1].steps[-1] == Finished(0, "stop", 0)
    assert bench.runner.threads == {"local-engine"}


def test_an_engine_that_is_done_holds_nothing(make: Callable[..., Bench]) -> None:
    bench = make()
    request = a_request(1, n=2)
    submit(bench.engine, request)
    bench.start()
    request.wait()

    load = bench.engine.load()
    assert (load.running, load.waiting, load.kv_blocks_free) == (0, 0, load.kv_blocks_total)
    assert load.finished_total == {"length": 2}
    assert (load.prompt_tokens_total, load.generated_tokens_total) == (6, 20)
    assert bench.engine._choices == {}


def test_prompt_and_answer_must_fit_in_the_context(make: Callable[..., Bench]) -> None:
    bench = make()

    with pytest.raises(Refused) as refused:
        bench.engine.submit([1] * 300, SamplingParams(max_tokens=101), lambda step: None)

    assert refused.value.code == "context_length_exceeded"
    assert "300" in refused.value.message
    bench.engine.submit([1] * 300, SamplingParams(max_tokens=100), lambda step: None)


def test_an_empty_prompt_is_refused(make: Callable[..., Bench]) -> None:
    with pytest.raises(Refused, match="prompt"):
        make().engine.submit([], SamplingParams(max_tokens=1), lambda step: None)


def test_a_full_engine_says_when_to_come_back(make: Callable[..., Bench]) -> None:
    bench = make(running=3, waiting=2)
    for seed in range(5):
        submit(bench.engine, a_request(seed))

    with pytest.raises(Busy) as busy:
        submit(bench.engine, a_request(9))

    assert busy.value.retry_after_s is not None
    assert 1 <= busy.value.retry_after_s <= 60
    assert f"{busy.value.retry_after_s} s" in busy.value.message


def test_more_choices_than_could_ever_be_held_are_refused_for_good(make: Callable[..., Bench]) -> None:
    with pytest.raises(Refused) as refused:
        submit(make(running=3, waiting=2).engine, a_request(1, n=6))

    assert (refused.value.status, refused.value.param) == (400, "n")


def test_cancelling_ends_the_generation_and_the_others_go_on(make: Callable[..., Bench]) -> None:
    bench = make()
    goes, stays = a_request(1, 300), a_request(2, 30)
    generation = submit(bench.engine, goes)
    submit(bench.engine, stays)
    generation.cancel()
    bench.start()

    assert goes.wait().steps[-1] == Finished(0, "cancelled", 0)
    assert stays.wait().tokens[0] == answer_of(stays)
    generation.cancel()
    assert len(goes.tokens.get(0, [])) < 300


def test_whoever_is_told_of_an_end_keeps_nobody_from_the_engine(make: Callable[..., Bench]) -> None:
    bench = make()
    request = a_request(1, 300)
    stopped: list[bool] = []

    def deliver(step: Any) -> None:
        if isinstance(step, Finished):
            # As a signal handler would, in a thread that holds what this listener waits for.
            other = threading.Thread(target=bench.engine.stop, args=(30,))
            other.start()
            other.join(5)
            stopped.append(not other.is_alive())
        request.deliver(step)

    bench.engine.submit(request.prompt, request.params, deliver).cancel()
    bench.start()

    assert request.wait().steps == [Finished(0, "cancelled", 0)]
    assert stopped == [True]


def test_one_choice_can_be_cancelled_alone(make: Callable[..., Bench]) -> None:
    bench = make()
    request = a_request(1, 20, n=3)
    generation = submit(bench.engine, request)
    generation.cancel(1)
    bench.start()
    request.wait()

    ends = {step.choice: step.reason for step in request.steps if isinstance(step, Finished)}
    assert ends == {0: "length", 1: "cancelled", 2: "length"}
    assert request.tokens[2] == answer_of(request, 2)


def test_a_held_request_stops_and_goes_on_when_released(make: Callable[..., Bench]) -> None:
    bench = make()
    some = threading.Event()
    generation: list[Generation] = []
    request = a_request(1, 40)
    inner = request.deliver

    def deliver(step: Any) -> None:
        inner(step)
        if len(request.steps) == 5:
            generation[0].hold()
            some.set()

    generation.append(bench.engine.submit(request.prompt, request.params, deliver))
    bench.start()
    assert some.wait(PATIENCE_S)
    other = a_request(2, 30)
    submit(bench.engine, other)
    other.wait()

    assert len(request.steps) == 5
    generation[0].release()
    assert request.wait().tokens[0] == answer_of(request)


def test_an_idle_engine_computes_nothing(make: Callable[..., Bench]) -> None:
    bench = make()
    first = a_request(1, 3)
    submit(bench.engine, first)
    bench.start()
    first.wait()
    steps = len(bench.runner.plans)
    second = a_request(2, 3)
    submit(bench.engine, second)
    second.wait()

    assert (steps, len(bench.runner.plans)) == (3, 6)


def test_a_listener_that_breaks_loses_its_own_request_only(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    good = a_request(2, 30)

    def broken(step: object) -> None:
        raise ValueError("secret words")

    bench.engine.submit([1], SamplingParams(max_tokens=300, stop_tokens=ENDLESS), broken)
    submit(bench.engine, good)
    bench.start()

    assert good.wait().tokens[0] == answer_of(good)
    assert "ValueError" in caplog.text
    assert "secret words" not in caplog.text


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_step_that_breaks_fails_those_in_it_and_the_engine_goes_on(
    make: Callable[..., Bench], overlaps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(overlaps=overlaps)
    broken: list[int] = []

    def spoil(plan: Plan, tokens: list[int]) -> list[int]:
        if not broken and len(bench.runner.plans) == 4:
            broken.append(1)
            raise RuntimeError("secret words")
        return tokens

    bench.runner.spoil = spoil
    hit = [a_request(1, 30, salt="t"), a_request(2, 30, n=2, salt="t")]
    for request in hit:
        submit(bench.engine, request)
    bench.start()
    for request in hit:
        assert (request.wait().error.status, request.error.code) == (500, "engine_fault")
    later = a_request(1, 12, salt="t")
    submit(bench.engine, later)

    assert later.wait().tokens[0] == answer_of(later)
    assert "RuntimeError" in caplog.text
    assert "secret words" not in caplog.text
    assert bench.lost == []


def test_what_the_choices_of_a_broken_step_computed_is_not_found_again(make: Callable[..., Bench]) -> None:
    bench = make()

    def spoil(plan: Plan, tokens: list[int]) -> list[int]:
        if len(bench.runner.plans) == 30:
            raise RuntimeError
        return tokens

    bench.runner.spoil = spoil
    request = a_request(1, 60, n=2, salt="t")
    submit(bench.engine, request)
    bench.start()

    assert isinstance(request.wait().error, Fault)
    assert bench.engine.load().prefix == {}


def test_unusable_logits_fail_one_request(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.runner.spoil = lambda plan, tokens: [
        -1 if sequence.tokens[0] == 1 else token
        for sequence, token in zip(plan.sampling, tokens, strict=True)
    ]
    bad, good = a_request(1, 30, n=2, salt="t"), a_request(2, 30)
    submit(bench.engine, bad)
    submit(bench.engine, good)
    bench.start()

    assert isinstance(bad.wait().error, Fault)
    assert good.wait().tokens[0] == answer_of(good)
    assert tenant_salt("t").hex()[:8] not in bench.engine.load().prefix


class Broken:
    """A grammar that fails where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where

    def fill(self, mask: object) -> None:
        """Fails, or not."""
        if self.where == "fill":
            raise RuntimeError

    def accept(self, token: int) -> None:
        """Fails, or not."""
        if self.where == "accept":
            raise RuntimeError


@pytest.mark.parametrize("where", ["fill", "accept"])
def test_a_grammar_that_breaks_fails_its_own_request(make: Callable[..., Bench], where: str) -> None:
    bench = make()
    bad, good = a_request(1, grammar=lambda: Broken(where)), a_request(2, 30)
    submit(bench.engine, bad)
    submit(bench.engine, good)
    bench.start()

    assert isinstance(bad.wait().error, Fault)
    assert good.wait().tokens[0] == answer_of(good)


@dataclass
class Watched:
    """A step's results; asking for them is noted."""

    number: int
    inner: Done
    noted: list[tuple[str, int]]

    def results(self) -> list[Sampled]:
        """As they are."""
        self.noted.append(("read", self.number))
        return self.inner.results()


def noted_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """When each step is launched and when its results are read, from now on."""
    noted: list[tuple[str, int]] = []
    launch = bench.runner.launch

    def watched(plan: Plan, grammars: Sequence[Grammar | None]) -> Watched:
        number = len(bench.runner.plans)
        noted.append(("launch", number))
        return Watched(number, launch(plan, grammars), noted)

    monkeypatch.setattr(bench.runner, "launch", watched)
    return noted


def test_a_step_is_launched_before_the_last_ones_results_are_read(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(overlaps=True)
    noted = noted_steps(bench, monkeypatch)
    request = a_request(1, 4)
    submit(bench.engine, request)
    bench.start()
    request.wait()

    order = [("launch", 0)]
    for number in range(3):
        order += [("launch", number + 1), ("read", number)]
    assert noted == [*order, ("read", 3)]


def test_steps_with_a_grammar_wait_for_each_other_and_miss_nobody(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(overlaps=True)
    noted = noted_steps(bench, monkeypatch)
    held, free = a_request(1, 8, grammar=lambda: Broken("nowhere")), a_request(2, 8)
    submit(bench.engine, held)
    submit(bench.engine, free)
    bench.start()
    held.wait()
    free.wait()

    assert noted == [(what, number) for number in range(8) for what in ("launch", "read")]
    assert [len(plan.sampling) for plan in bench.runner.plans] == [2] * 8


def test_a_lost_device_fails_everything_once_and_is_told(make: Callable[..., Bench]) -> None:
    bench = make()

    def spoil(plan: Plan, tokens: list[int]) -> list[int]:
        raise DeviceLost("gone")

    bench.runner.spoil = spoil
    requests = [a_request(seed) for seed in range(5)]
    for request in requests:
        submit(bench.engine, request)
    bench.start()

    for request in requests:
        assert request.wait().error.status == 503
    bench.engine._worker.join(PATIENCE_S)
    assert bench.lost == ["lost"]
    assert bench.engine.load().lost
    with pytest.raises(Fault) as fault:
        submit(bench.engine, a_request(1))
    assert fault.value.status == 503


def test_stopping_refuses_the_new_and_lets_the_old_finish(make: Callable[..., Bench]) -> None:
    bench = make(running=2)
    old = [a_request(1, 25), a_request(2, 25), a_request(3, 25)]
    for request in old:
        submit(bench.engine, request)
    bench.engine.stop(grace_s=30)
    with pytest.raises(Stopping) as stopping:
        submit(bench.engine, a_request(4))
    bench.start()

    for request in old:
        assert request.wait().tokens[0] == answer_of(request)
    bench.engine._worker.join(PATIENCE_S)
    assert not bench.engine._worker.is_alive()
    assert stopping.value.retry_after_s == 1


def test_when_the_grace_is_over_what_is_left_fails(make: Callable[..., Bench]) -> None:
    bench = make()
    request = a_request(1, 390)
    steps: list[int] = []

    def spoil(plan: Plan, tokens: list[int]) -> list[int]:
        steps.append(1)
        if len(steps) == 3:
            bench.engine.stop(grace_s=5)
        if len(steps) == 6:
            bench.clock.now_s += 6
        return tokens

    bench.runner.spoil = spoil
    submit(bench.engine, request)
    bench.start()

    assert isinstance(request.wait().error, Stopping)
    assert len(request.tokens[0]) == 6


def test_closing_does_not_wait_for_ever_for_a_step_that_hangs(make: Callable[..., Bench]) -> None:
    bench = make()
    request = a_request(1)
    submit(bench.engine, request)
    bench.start(open_gate=False)

    bench.engine.close(patience_s=0.01)

    assert bench.engine._worker.is_alive()
    assert bench.engine._worker.daemon
    bench.runner.gate.set()
    assert isinstance(request.wait().error, Stopping)


def test_a_second_stop_can_only_shorten_the_grace(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.engine.stop(grace_s=5)
    bench.engine.stop(grace_s=50)

    assert bench.engine._deadline_s == bench.clock.now_s + 5

    bench.engine.stop()
    assert bench.engine._deadline_s == bench.clock.now_s


def test_the_load_tells_what_runs_what_waits_and_what_is_cached(make: Callable[..., Bench]) -> None:
    bench = make(running=2, waiting=4)
    # 31 tokens a step: the prompts are there before the gate opens for the second time.
    seen = threading.Event()
    reached = threading.Event()

    def spoil(plan: Plan, tokens: list[int]) -> list[int]:
        if len(bench.runner.plans) == 3:
            reached.set()
            assert seen.wait(PATIENCE_S)
        return tokens

    bench.runner.spoil = spoil
    requests = [Request([7] * 20, SamplingParams(30, stop_tokens=ENDLESS), salt="t") for _ in range(4)]
    for request in requests:
        submit(bench.engine, request)
    bench.start()
    assert reached.wait(PATIENCE_S)
    load = bench.engine.load()
    seen.set()
    for request in requests:
        request.wait()

    assert (load.running, load.waiting, load.max_running, load.max_waiting) == (2, 2, 2, 4)
    assert load.predicted_ttft_s > 0
    assert load.prefix == {tenant_salt("t").hex()[:8]: 16}
    assert load.kv_blocks_free < load.kv_blocks_total
    after = bench.engine.load()
    assert after.finished_total == {"length": 4}
    assert after.cached_tokens_total == 2 * 16
    assert after.steps_total == len(bench.runner.plans)


@pytest.mark.parametrize("overlaps", [False, True])
def test_2000_mixed_requests_leave_nothing_behind(make: Callable[..., Bench], overlaps: bool) -> None:
    bench = make(running=6, waiting=20, overlaps=overlaps, blocks=40)
    bench.start()
    window: list[tuple[Request, Generation]] = []
    for number in range(2000):
        request = Request(
            [number % 7] * (1 + number % 60),
            SamplingParams(1 + number % 9, stop_tokens=frozenset({STOP}) if number % 3 else ENDLESS),
            1 + (number % 5 == 0),
            f"tenant {number % 3}",
        )
        while True:
            try:
                window.append((request, submit(bench.engine, request)))
                break
            except Busy:
                window.pop(0)[0].wait()
        if number % 11 == 0:
            window[-1][1].cancel()
    for request, _ in window:
        request.wait()

    engine = bench.engine
    load = engine.load()
    assert sum(load.finished_total.values()) == 2400
    assert load.kv_blocks_free == load.kv_blocks_total
    assert engine._choices == {}
    assert not engine._inbox
    assert not engine.scheduler.waiting
    # What is kept of each tenant is bounded by the pool.
    assert sum(load.prefix.values()) <= load.kv_blocks_total * 16
