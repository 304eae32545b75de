"""The engine runs one request at a time, lets go when told, and refuses what does not fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from local_engine.engine import Engine, Failed, Finished, Generation, Load, Step, Token
from local_engine.errors import Busy, Refused, Stopping
from local_engine.sampling import Logprobs, SamplingParams

STOP = 7
PARAMS = SamplingParams(max_tokens=4, temperature=0, stop_tokens=frozenset({STOP}))


class SteppedModel:
    """Says 1, 2, 3, … and `STOP` where told; each forward waits for permission while `paused`."""

    def __init__(self) -> None:
        self.fed: list[list[int]] = []
        self.allowed = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.paused = False
        self.says = [1, 2, 3, 4, 5] + [1] * 20
        self.breaks = False

    def new_cache(self) -> list[int]:
        """The tokens said so far."""
        return []

    def forward(self, tokens: list[int], cache: Any, *, last_only: bool = False) -> torch.Tensor:
        """Logits [1, 8] for the next token to say."""
        assert last_only
        self.fed.append(tokens)
        if self.breaks:
            raise ZeroDivisionError("a prompt might be quoted here")
        if self.paused:
            self.entered.release()
            assert self.allowed.acquire(timeout=20)
        logits = torch.zeros(1, 8)
        logits[0, self.says[len(cache)]] = 9.0
        cache.append(0)
        return logits


class Heard:
    """Collects the steps of one generation."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.ended = threading.Event()

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        if not isinstance(step, Token):
            self.ended.set()

    def all(self) -> list[Step]:
        """Every step, once the generation has ended."""
        assert self.ended.wait(20)
        return self.steps


@pytest.fixture
def model() -> SteppedModel:
    return SteppedModel()


@pytest.fixture
def engine(model: SteppedModel) -> Iterator[Engine]:
    ticks = iter(range(1000))
    engine = Engine(
        model, max_context_tokens=20, max_waiting=1, prefill_chunk_tokens=2, clock=lambda: 10.0 * next(ticks)
    )
    engine.start()
    yield engine
    model.allowed.release(100)
    engine.close()


def start(
    engine: Engine, prompt: list[int] | None = None, params: SamplingParams = PARAMS
) -> tuple[Generation, Heard]:
    heard = Heard()
    return engine.submit(prompt or [5, 5, 5], params, heard), heard


def held(engine: Engine, model: SteppedModel) -> tuple[Generation, Heard]:
    """A generation that has begun and is held inside its first forward."""
    model.paused = True
    begun = start(engine)
    assert model.entered.acquire(timeout=20)
    return begun


def test_the_prompt_is_fed_in_chunks_and_the_answer_token_by_token(
    engine: Engine, model: SteppedModel
) -> None:
    _, heard = start(engine, params=SamplingParams(max_tokens=2, temperature=0))

    assert heard.all() == [Token(2, None), Token(3, None), Finished("length")]
    assert model.fed == [[5, 5], [5], [2]]


def test_a_stop_token_is_delivered_and_ends_the_answer(engine: Engine, model: SteppedModel) -> None:
    model.says = [0, 4, STOP, 4]
    _, heard = start(engine)

    assert heard.all() == [Token(4, None), Token(STOP, None), Finished("stop")]


def test_logprobs_come_when_asked_for(engine: Engine) -> None:
    params = SamplingParams(max_tokens=1, temperature=0, top_logprobs=1)
    _, heard = start(engine, params=params)
    token = heard.all()[0]

    assert isinstance(token, Token)
    assert isinstance(token.logprobs, Logprobs)
    assert token.logprobs.top == ((2, token.logprobs.chosen),)


def test_cancelling_ends_a_running_answer_and_frees_the_engine(engine: Engine, model: SteppedModel) -> None:
    generation, heard = held(engine, model)
    generation.cancel()
    model.paused = False
    model.allowed.release()
    _, next_heard = start(engine)

    assert heard.all() == [Finished("cancelled")]
    assert next_heard.all()[-1] == Finished("length")
    assert len(model.fed[0]) == 2  # the second chunk of the cancelled prompt was never fed
    assert model.fed[1] == [5, 5]


def test_cancelling_a_waiting_request_takes_it_out_of_the_queue_at_once(
    engine: Engine, model: SteppedModel
) -> None:
    held(engine, model)
    generation, heard = start(engine)
    assert engine.load() == Load(running=1, waiting=1, max_waiting=1, stopping=False)
    generation.cancel()

    assert heard.steps == [Finished("cancelled")]
    assert engine.load().waiting == 0


def test_a_full_queue_refuses_and_says_when_to_come_back(engine: Engine, model: SteppedModel) -> None:
    held(engine, model)
    start(engine)

    with pytest.raises(Busy) as refusal:
        start(engine)

    assert refusal.value.status == 429
    assert refusal.value.retry_after_s == 10  # two ahead, at the first guess of five seconds each
    assert engine.load() == Load(running=1, waiting=1, max_waiting=1, stopping=False)


def test_the_estimate_learns_from_how_long_answers_take(engine: Engine, model: SteppedModel) -> None:
    start(engine)[1].all()  # by the test's clock, ten seconds
    held(engine, model)
    start(engine)

    with pytest.raises(Busy) as refusal:
        start(engine)

    assert refusal.value.retry_after_s == 12  # 5 s + 0.2 * (10 s - 5 s), twice


@pytest.mark.parametrize(("prompt", "limit", "fits"), [(16, 4, True), (17, 4, False), (1, 20, False)])
def test_prompt_and_answer_must_fit_in_the_context(
    engine: Engine, prompt: int, limit: int, fits: bool
) -> None:
    params = SamplingParams(max_tokens=limit, temperature=0, stop_tokens=frozenset({2}))
    if fits:
        assert start(engine, [5] * prompt, params)[1].all()[-1] in (Finished("stop"), Finished("length"))
        return

    with pytest.raises(Refused) as refusal:
        start(engine, [5] * prompt, params)

    assert refusal.value.code == "context_length_exceeded"
    assert str(refusal.value) == (
        f"the context holds 20 tokens, but the prompt has {prompt} and up to {limit} may follow: "
        "shorten the messages or lower `max_completion_tokens`"
    )


def test_a_model_that_breaks_fails_its_request_alone_and_its_words_stay_unsaid(
    engine: Engine, model: SteppedModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.breaks = True
    last = start(engine)[1].all()[-1]
    model.breaks = False

    assert isinstance(last, Failed)
    assert last.error.status == 500
    assert "quoted" not in str(last.error)
    assert "ZeroDivisionError at " in caplog.text
    assert "quoted" not in caplog.text
    assert start(engine)[1].all()[-1] == Finished("length")


def test_a_listener_that_breaks_ends_its_own_request_only(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(step: Step) -> None:
        raise LookupError("a prompt might be quoted here")

    engine.submit([5], PARAMS, broken)

    assert start(engine)[1].all()[-1] == Finished("length")
    assert "an answer's end was not taken: LookupError" in caplog.text
    assert "quoted" not in caplog.text


def test_an_empty_prompt_is_a_fault_not_a_crash(engine: Engine) -> None:
    heard = Heard()
    engine.submit([], PARAMS, heard)

    assert isinstance(heard.all()[-1], Failed)


def test_stopping_fails_what_runs_and_what_waits_and_refuses_what_comes(
    engine: Engine, model: SteppedModel
) -> None:
    _, running = held(engine, model)
    _, waiting = start(engine)
    engine.stop()
    with pytest.raises(Stopping):
        start(engine)
    model.allowed.release(100)
    engine.close()
    ends = [heard.all()[-1] for heard in (running, waiting)]

    assert [isinstance(end, Failed) and end.error.code for end in ends] == ["engine_stopping"] * 2
    assert engine.load() == Load(running=0, waiting=0, max_waiting=1, stopping=True)


def test_an_engine_that_never_started_closes(model: SteppedModel) -> None:
    engine = Engine(model, max_context_tokens=20)
    engine.close()

    assert engine.load().stopping
