"""The search: world after world from one seed, until something is found or enough was seen."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from gateway.policy import geography, load
from gateway.routing import attempts
from tests.residency.house import House, open_house
from tests.residency.play import Play, Violation
from tests.residency.servers import Outside, running_outside
from tests.residency.worlds import Weights, World, make_world

STEPS = 80  # of a world: a bundle costs as much as five requests


@dataclass(slots=True)
class Found:
    """What a search has seen and found."""

    seen: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.seen["cases"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A gateway and the outside, ready for one world after the other."""

    house: House
    outside: Outside

    async def play(self, world: World, seen: Counter[str]) -> list[Violation]:
        play = Play(world, self.house, self.outside, seen)
        await play.run()
        return play.violations


class Keep(logging.Handler):
    """Keeps every line, with all that a formatter could see."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.getMessage()} {getattr(record, 'fields', '')}")


@contextmanager
def logged(lines: list[str]) -> Iterator[None]:
    handler = Keep(lines)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Opens everything. Retries wait for nothing, and botocore's list of regions is read once."""
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(attempts, "BACKOFF_S", 0.0),
        mock.patch.object(load, "aws_regions", functools.cache(geography.aws_regions)),
    ):
        async with running_outside() as outside, open_house(Path(directory), outside) as house:
            with logged(house.lines):
                yield Stage(house, outside)


async def search(
    seed: str, cases: int, weights: Weights | None = None, *, until_found: bool = False
) -> Found:
    """Plays worlds of the seed until `cases` requests were asked; `until_found`: or something is found."""
    found = Found()
    async with stage() as opened:
        number = 0
        while found.cases < cases:
            world = make_world(f"{seed}/{number}", STEPS, weights)
            found.violations += await opened.play(world, found.seen)
            number += 1
            if until_found and found.violations:
                break
    return found
