"""An engine over a runner that is told which tokens to sample, whatever the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from local_engine.engine import Engine
from local_engine.kv import BlockTables
from local_engine.scheduler import Limits, Plan, Scheduler
from local_engine.steps import Grammar, Sampled


@dataclass(frozen=True, slots=True)
class Told:
    """A step that is done as soon as it is begun."""

    sampled: list[Sampled]

    def results(self) -> list[Sampled]:
        """See `engine.Ticket`."""
        return self.sampled


@dataclass
class ToldRunner:
    """Implements `engine.Runner`. `answers` are what the requests get, in the order in which they came.

    `prompts` holds their prompts; `before` is called before each step with the number of steps so far.
    """

    answers: list[list[int]]
    before: Callable[[int], None] = lambda _: None
    overlaps: bool = False
    prompts: list[list[int]] = field(default_factory=list)
    steps: int = 0
    _places: dict[object, int] = field(default_factory=dict)

    def launch(self, plan: Plan, grammars: Sequence[Grammar | None]) -> Told:
        """The next token of each sampled sequence."""
        self.before(self.steps)
        self.steps += 1
        sampled = []
        for work in plan.work:
            if not work.samples:
                continue
            sequence = work.sequence
            if sequence not in self._places:
                self._places[sequence] = len(self._places)
                self.prompts.append(sequence.tokens[: sequence.prompt_tokens])
            answer = self.answers[self._places[sequence] % len(self.answers)]
            place = work.start + work.count - sequence.prompt_tokens
            sampled.append(Sampled(answer[place % len(answer)], None))
        return Told(sampled)


@contextmanager
def told_engine(
    runner: ToldRunner, *, max_running: int = 1, max_context_tokens: int = 4096
) -> Iterator[Engine]:
    """A started engine over the runner."""
    scheduler = Scheduler(BlockTables(2048, 512, 128), Limits(max_running, 256))
    engine = Engine(runner, scheduler, max_context_tokens=max_context_tokens)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
