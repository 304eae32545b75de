"""The engine: one worker thread that computes a step at a time for all requests together.

`Engine.submit` returns at once. What a request gets is handed to its `deliver` callback on the worker thread,
in order: `Token`s of its choices, then one `Finished` a choice, or one `Failed` for the whole request.
Cancelling takes effect between two steps and frees everything at once.

The engine knows nothing of text, of harmony or of tensors: a `Runner` turns a plan into tokens.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from local_engine.errors import Busy, DeviceLost, Fault, Refused, RequestError, Stopping
from local_engine.generation import Choice, Generation, Pending, Watched
from local_engine.kv import BLOCK_TOKENS, tenant_salt
from local_engine.load import Load, Meter
from local_engine.scheduler import Plan, Reason, Scheduler
from local_engine.scheduler import Sequence as Running
from local_engine.steps import Deliver, Failed, Finished, Grammar, Runner, Sampled, Step, Token

if TYPE_CHECKING:
    from local_engine.sampling import SamplingParams

log = logging.getLogger("local_engine.engine")


class Engine:
    """Runs requests over a runner and a scheduler.

    `max_context_tokens` bounds prompt plus answer, `max_waiting` the choices that wait for a slot. `on_lost`
    is called once, on the worker thread, when the device is gone for good. The worker thread starts with
    `start` and ends with `close`.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        *,
        max_context_tokens: int,
        max_waiting: int = 8,
        clock: Callable[[], float] = time.monotonic,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.max_context_tokens = max_context_tokens
        self.max_waiting = max_waiting
        self.on_lost = on_lost
        self.runner = runner
        self.scheduler = scheduler
        self.pending = Pending(runner.overlaps)
        self.meter = Meter()
        self._clock = clock
        self._choices: dict[Running, Choice] = {}
        self._inbox: list[Generation] = []
        self._cancelled: list[Choice] = []
        self._live = 0
        self._stopping = False
        self._lost = False
        self._deadline_s = 0.0
        # Re-entrant, because a signal handler may call `stop` while this thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._stirred = False
        self._idle = True
        self._worker = threading.Thread(target=self._work, name="local-engine", daemon=True)

    def step(self) -> Plan:
        """One step for everybody: the table of contents of this engine. Returns what was launched."""
        plan = self.scheduler.plan()
        ticket = self.runner.launch(plan, self._grammars(plan)) if plan.work else None
        for done, results in self.pending.settle(plan, ticket):
            sampled = self._usable(done, results.results())
            self._emit(self.scheduler.commit(done, [one.token for one in sampled]), done, sampled)
        return plan

    def start(self) -> None:
        """Starts the worker thread."""
        self._worker.start()

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        deliver: Deliver,
        *,
        n: int = 1,
        cache_salt: str | None = None,
        grammar: Callable[[], Grammar] | None = None,
    ) -> Generation:
        """Queues a request for `n` choices.

        Raises `Refused` when prompt and answer cannot fit (`context_length_exceeded`) or `n` never can,
        `Busy` when the queue is full, `Stopping` during shutdown, `Fault` when the device is lost.
        `cache_salt` separates tenants in the prefix cache. `grammar` makes what holds one choice.
        """
        self.check_length(len(prompt), params.max_tokens)
        capacity = self.scheduler.limits.max_running + self.max_waiting
        if not prompt:
            raise Refused("the prompt is empty: give at least one token", param="prompt")
        if n > capacity:
            raise Refused(f"`n` is above {capacity}, the most this engine holds at once: lower it", param="n")
        generation = Generation(self, deliver, self._clock())
        salt = tenant_salt(cache_salt)
        leader: Running | None = None
        choices = []
        for number in range(n):
            held_to = None if grammar is None else Watched(grammar())
            sequence = Running(number, list(prompt), params, salt, held_to is not None, leader)
            leader = leader or sequence
            choices.append(Choice(sequence, generation, held_to))
        generation.choices = tuple(choices)
        with self._changed:
            if self._lost:
                raise Fault("the device is lost: the engine is going down, try another replica", status=503)
            if self._stopping:
                raise Stopping("the engine is shutting down: try another replica", retry_after_s=1)
            if self._live + n > capacity:
                waiting = max(0, self._live - self.scheduler.limits.max_running)
                wait_s = self.meter.retry_after_s(waiting, self.scheduler.limits.max_running)
                raise Busy(f"the engine is full: retry in {wait_s} s", retry_after_s=wait_s)
            self._live += n
            self._inbox.append(generation)
            self._wake()
        return generation

    def check_length(self, prompt_tokens: int, max_tokens: int, param: str = "messages") -> None:
        """Raises `Refused` when a prompt, that of `param`, and its answer do not fit in the context."""
        longest = self.max_context_tokens
        if prompt_tokens + max_tokens <= longest:
            return
        room = f" or ask for at most {longest - prompt_tokens} tokens" if prompt_tokens < longest else ""
        raise Refused(
            f"the context holds {longest} tokens and the prompt has {prompt_tokens}: shorten `{param}`{room}",
            param=param,
            code="context_length_exceeded",
        )

    def load(self) -> Load:
        """A snapshot for health checks, routing and metrics. Numbers of one moment, give or take a step."""
        meter, limits, pool = self.meter, self.scheduler.limits, self.scheduler.blocks.full
        running = list(self.scheduler.running)
        live = self._live
        waiting = max(0, live - len(running))
        ahead = sum(max(0, choice.sequence.uncomputed - 1) for choice in list(self._choices.values()))
        return Load(
            running=len(running),
            waiting=waiting,
            max_running=limits.max_running,
            max_waiting=self.max_waiting,
            stopping=self._stopping,
            lost=self._lost,
            kv_blocks_total=pool.total,
            kv_blocks_free=pool.available,
            kv_blocks_cached=pool.cached,
            tokens_per_s=round(meter.tokens_per_s, 3),
            predicted_ttft_s=round(
                meter.predicted_ttft_s(ahead, waiting, len(running), limits.max_running), 4
            ),
            prefix={salt.hex()[:8]: blocks * BLOCK_TOKENS for salt, blocks in list(pool.salts.items())},
            prompt_tokens_total=meter.prompt_tokens,
            cached_tokens_total=meter.cached_tokens,
            generated_tokens_total=meter.generated_tokens,
            preemptions_total=self.scheduler.preemptions,
            steps_total=meter.steps,
            finished_total=dict(meter.finished),
        )

    def stop(self, grace_s: float = 0.0) -> None:
        """Refuses new work; what is there may end within `grace_s`, and is failed then.

        Returns at once; safe in a signal handler, and again with a shorter grace.
        """
        with self._changed:
            deadline_s = self._clock() + grace_s
            self._deadline_s = min(self._deadline_s, deadline_s) if self._stopping else deadline_s
            self._stopping = True
            self._wake()

    def close(self, patience_s: float | None = None) -> None:
        """`stop` without grace, then waits for the worker to end, at most `patience_s`: a device that hangs
        keeps it for ever. The thread does not keep the process alive."""
        self.stop()
        if self._worker.is_alive():
            self._worker.join(patience_s)

    def _cancel(self, choices: Iterable[Choice]) -> None:
        with self._changed:
            self._cancelled += choices
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._stirred = True
            self._changed.notify_all()

    def _work(self) -> None:
        while self._more():
            try:
                self._timed_step()
            except DeviceLost as error:
                self._lose(error)
                return
            except Exception as error:
                self._fail_step(error)
        self._fail_all(Stopping("the engine is shutting down: the answer is incomplete", retry_after_s=1))

    def _more(self) -> bool:
        """Takes in what came from outside; waits while there is nothing to do. False: time to end."""
        while True:
            self._take_in()
            with self._changed:
                if self._inbox or self._cancelled:
                    continue
                if self._stopping and (not self._live or self._clock() >= self._deadline_s):
                    return False
                if self._stirred or (self._live and not self._idle):
                    self._stirred = False
                    return True
                self._changed.wait(self._deadline_s - self._clock() if self._stopping else None)

    def _take_in(self) -> None:
        with self._changed:
            new, self._inbox = self._inbox, []
            gone, self._cancelled = self._cancelled, []
        for choice in (choice for generation in new for choice in generation.choices):
            self._choices[choice.sequence] = choice
            self.scheduler.add(choice.sequence)
        # Not under the lock: a listener has locks of its own, which whoever wants this one may hold.
        for choice in gone:
            if self.scheduler.end(choice.sequence):
                self._finish(choice, "cancelled")

    def _timed_step(self) -> None:
        began_s, generated = self._clock(), self.meter.generated_tokens
        due = bool(self.pending)
        plan = self.step()
        # Results that came in may have made room for a plan that was empty without them.
        self._idle = not (plan.work or plan.preempted or due)
        if plan.work:
            prefilled = sum([work.count for work in plan.work if not work.samples or work.count > 1])
            took_s = self._clock() - began_s
            self.meter.step(took_s, prefilled, self.meter.generated_tokens - generated)

    def _grammars(self, plan: Plan) -> list[Grammar | None]:
        return [
            self._choices[sequence].grammar if sequence.synchronous else None for sequence in plan.sampling
        ]

    def _usable(self, plan: Plan, sampled: list[Sampled]) -> list[Sampled]:
        """The same, after ending the requests whose logits or grammars turned out to be broken."""
        for sequence, one in zip(plan.sampling, sampled, strict=True):
            if one.token >= 0 and not sequence.synchronous:
                continue
            choice = self._choices.get(sequence)
            if choice is None:
                continue
            if one.token < 0:
                self.scheduler.disown(sequence)
                self._fail(
                    choice.generation, Fault("the model produced no usable logits: check the checkpoint")
                )
            elif choice.grammar is not None:
                choice.grammar.accept(one.token)
                if choice.grammar.error is not None:
                    _report("a grammar failed", choice.grammar.error)
                    self._fail(choice.generation, Fault("the answer could not be held to its format"))
        return sampled

    def _emit(
        self, ends: list[tuple[Running, int, Reason | None]], plan: Plan, sampled: list[Sampled]
    ) -> None:
        logprobs = {sequence: one.logprobs for sequence, one in zip(plan.sampling, sampled, strict=True)}
        self.meter.generated_tokens += len(ends)
        for sequence, token, reason in ends:
            choice = self._choices[sequence]
            if len(sequence.tokens) == sequence.prompt_tokens + 1:
                self.meter.begin(sequence.prompt_tokens, sequence.cached_tokens)
            self._deliver(choice.generation, Token(sequence.choice, token, logprobs[sequence]))
            if reason is not None:
                self._finish(choice, reason)

    def _finish(self, choice: Choice, reason: Reason) -> None:
        """The choice's sequence has ended: everything it held is free before anybody hears of it."""
        sequence = choice.sequence
        self._leave(choice, reason)
        self._deliver(
            choice.generation,
            Finished(sequence.choice, reason, min(sequence.cached_tokens, sequence.prompt_tokens)),
        )

    def _fail(self, generation: Generation, error: RequestError) -> None:
        failed = False
        for choice in generation.choices:
            if self.scheduler.end(choice.sequence):
                self._leave(choice, "failed")
                failed = True
        if failed:
            self._deliver(generation, Failed(error))

    def _leave(self, choice: Choice, reason: str) -> None:
        with self._changed:
            del self._choices[choice.sequence]
            self._live -= 1
        self.meter.end(reason, self._clock() - choice.generation.submitted_s)

    def _fail_step(self, error: Exception) -> None:
        """A step broke: all that took part in it, or could have, fail. What they computed is not reused."""
        _report("a step failed", error)
        self.pending.clear()
        waiting = list(self.scheduler.waiting)
        hit = [*self.scheduler.running, *(sequence for sequence in waiting if sequence.in_flight)]
        hit = hit or waiting[:1]
        for sequence in hit:
            # All before any fails: a request's choices end together, and whoever has ended has no blocks.
            self.scheduler.disown(sequence)
        for sequence in hit:
            if (choice := self._choices.get(sequence)) is not None:
                fault = Fault("the model failed on this request: see the engine's log")
                self._fail(choice.generation, fault)

    def _fail_all(self, error: RequestError) -> None:
        self.pending.clear()
        self._take_in()
        left = {choice.generation: None for choice in self._choices.values()}
        for generation in left:
            self._fail(generation, error)

    def _lose(self, error: DeviceLost) -> None:
        _report("the device is lost", error)
        with self._changed:
            self._lost = True
        self._fail_all(Fault("the device is lost: try another replica", status=503))
        self.on_lost()

    def _deliver(self, generation: Generation, step: Step) -> None:
        try:
            generation.deliver(step)
        except Exception as error:
            # One listener that breaks must not end the worker, and with it every other request.
            _report("a step was not taken", error)
            generation.cancel()


def _report(what: str, error: Exception) -> None:
    """Logs the kind of an error and its place; its message may quote a prompt."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "?"
    log.error("%s: %s at %s", what, type(error).__name__, place)
