"""The engine: one worker thread that runs one request at a time, behind a short waiting queue.

`Engine.submit` returns at once. Steps of a generation are handed to its `deliver` callback on the worker
thread, in order, ending with exactly one `Finished` or `Failed`. Cancelling takes effect between two tokens
or two chunks of the prompt; a generation that still waits leaves the queue at once.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from local_engine.errors import Busy, Fault, Refused, RequestError, Stopping
from local_engine.sampling import Logprobs, SamplingParams, logprobs_of, sample

log = logging.getLogger("local_engine.engine")

FIRST_GUESS_S = 5.0
MAX_RETRY_AFTER_S = 60


class LanguageModel(Protocol):
    """What the engine needs of a model; `reference.ReferenceModel` is one."""

    def new_cache(self) -> Any:
        """Fresh state for one sequence."""

    def forward(self, tokens: list[int], cache: Any, *, last_only: bool = False) -> torch.Tensor:
        """Runs tokens behind the cache; fp32 logits [T, V], or [1, V] with `last_only`."""


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token, stop tokens included."""

    id: int
    logprobs: Logprobs | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation is over: a stop token, the token limit, or `cancel`."""

    reason: Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Failed:
    """The generation broke off with an error that may be shown."""

    error: RequestError


Step = Token | Finished | Failed
Deliver = Callable[[Step], None]


class Generation:
    """One request's place in the engine."""

    def __init__(
        self,
        engine: Engine,
        prompt: list[int],
        params: SamplingParams,
        deliver: Deliver,
        cache_salt: str | None,
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.deliver = deliver
        self.cache_salt = cache_salt
        self._engine = engine
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stops the generation soon; harmless at any time, from any thread."""
        self._cancelled.set()
        self._engine._forget(self)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is."""

    running: int
    waiting: int
    max_waiting: int
    stopping: bool


class Engine:
    """Runs generations over `model`.

    `max_context_tokens` bounds prompt plus answer; `max_waiting` bounds the queue behind the running request.
    The worker thread starts with `start` and ends with `close`.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_context_tokens: int,
        max_waiting: int = 8,
        prefill_chunk_tokens: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_context_tokens = max_context_tokens
        self.max_waiting = max_waiting
        self._model = model
        self._chunk = prefill_chunk_tokens
        self._clock = clock
        self._waiting: deque[Generation] = deque()
        self._running: Generation | None = None
        self._stopping = False
        # Re-entrant, because a signal handler may call `stop` while this thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._worker = threading.Thread(target=self._work, name="local-engine", daemon=True)
        self._service_s = FIRST_GUESS_S

    def start(self) -> None:
        """Starts the worker thread."""
        self._worker.start()

    def submit(
        self, prompt: list[int], params: SamplingParams, deliver: Deliver, *, cache_salt: str | None = None
    ) -> Generation:
        """Queues a generation.

        Raises `Refused` (`context_length_exceeded`) when prompt and answer cannot fit, `Busy` when the queue
        is full, `Stopping` during shutdown. `cache_salt` separates tenants in a shared prefix cache.
        """
        self.check_length(len(prompt), params.max_tokens)
        generation = Generation(self, prompt, params, deliver, cache_salt)
        with self._changed:
            if self._stopping:
                raise Stopping("the engine is shutting down: try another replica")
            ahead = len(self._waiting) + (self._running is not None)
            if ahead > self.max_waiting:
                wait_s = min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._service_s * ahead)))
                raise Busy(f"the engine is full: retry in {wait_s} s", retry_after_s=wait_s)
            self._waiting.append(generation)
            self._changed.notify()
        return generation

    def check_length(self, prompt_tokens: int, max_tokens: int) -> None:
        """Raises `Refused` when a prompt and its answer do not fit in the context."""
        if prompt_tokens + max_tokens > self.max_context_tokens:
            raise Refused(
                f"the context holds {self.max_context_tokens} tokens, but the prompt has {prompt_tokens} "
                f"and up to {max_tokens} may follow: shorten the messages or lower `max_completion_tokens`",
                param="messages",
                code="context_length_exceeded",
            )

    def load(self) -> Load:
        """A snapshot for health checks and spill-over."""
        with self._changed:
            return Load(int(self._running is not None), len(self._waiting), self.max_waiting, self._stopping)

    def stop(self) -> None:
        """Refuses new work and fails what runs or waits. Returns at once; safe in a signal handler."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def close(self) -> None:
        """`stop`, then waits for the worker to end."""
        self.stop()
        if self._worker.is_alive():
            self._worker.join()

    def _forget(self, generation: Generation) -> None:
        with self._changed:
            if generation not in self._waiting:
                return
            self._waiting.remove(generation)
        generation.deliver(Finished("cancelled"))

    def _work(self) -> None:
        while (generation := self._next()) is not None:
            begun = self._clock()
            last = self._run(generation)
            with self._changed:
                self._running = None
                self._service_s += 0.2 * (self._clock() - begun - self._service_s)
            # Only now, so that whoever hears of the end finds the engine free.
            self._deliver(generation, last)
        self._fail_waiting()

    def _next(self) -> Generation | None:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _run(self, generation: Generation) -> Finished | Failed:
        try:
            return self._generate(generation)
        except RequestError as error:
            return Failed(error)
        except Exception as error:
            # The message may quote a prompt, so only its type and place are logged.
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "?"
            log.error("generation failed: %s at %s", type(error).__name__, place)
            return Failed(Fault("the model failed on this request: see the engine's log"))

    def _generate(self, generation: Generation) -> Finished | Failed:
        """Prefill in chunks, then one token at a time."""
        params, prompt = generation.params, generation.prompt
        cache = self._model.new_cache()
        logits: torch.Tensor | None = None
        for start in range(0, len(prompt), self._chunk):
            if (end := self._interrupted(generation)) is not None:
                return end
            logits = self._model.forward(prompt[start : start + self._chunk], cache, last_only=True)
        if logits is None:
            raise Fault("the prompt is empty")
        for n in range(params.max_tokens):
            if (end := self._interrupted(generation)) is not None:
                return end
            row = logits[-1]
            token = sample(row, params, len(prompt) + n)
            wanted = params.top_logprobs
            generation.deliver(Token(token, None if wanted is None else logprobs_of(row, token, wanted)))
            if token in params.stop_tokens:
                return Finished("stop")
            if n + 1 < params.max_tokens:
                logits = self._model.forward([token], cache, last_only=True)
        return Finished("length")

    def _interrupted(self, generation: Generation) -> Finished | Failed | None:
        if generation.cancelled:
            return Finished("cancelled")
        if self._stopping:
            return Failed(Stopping("the engine is shutting down: the answer is incomplete"))
        return None

    def _fail_waiting(self) -> None:
        with self._changed:
            left, self._waiting = list(self._waiting), deque()
        for generation in left:
            self._deliver(generation, Failed(Stopping("the engine is shutting down: try another replica")))

    def _deliver(self, generation: Generation, last: Finished | Failed) -> None:
        try:
            generation.deliver(last)
        except Exception as error:
            # One listener that breaks must not end the worker, and with it every other request.
            log.error("an answer's end was not taken: %s", type(error).__name__)
