"""`python -m tests.residency SEED [--cases N]`: searches worlds of a seed, prints what was seen and found.

`python -m tests.residency --world SEED/NUMBER`: plays one world again, made as small as still fails.
"""

# ruff: noqa: T201 (it is run by hand)

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from dataclasses import replace

from tests.residency.coverage import report
from tests.residency.search import STEPS, Stage, search, stage
from tests.residency.worlds import World, make_world

TRIES_MAX = 400


async def fails(opened: Stage, world: World) -> bool:
    return bool(await opened.play(world, Counter()))


async def smaller(opened: Stage, world: World) -> World:
    """The world with as few steps as still fail; a step that others repeat stays as long as they do."""
    tries, size = 0, len(world.steps) // 2
    while size and tries < TRIES_MAX:
        for start in range(0, len(world.steps), size):
            gone = set(range(start, min(start + size, len(world.steps))))
            left = [number for number in range(len(world.steps)) if number not in gone]
            if any(world.steps[number].again in gone for number in left):
                continue
            at = {number: place for place, number in enumerate(left)}
            steps = tuple(
                replace(step, again=at[step.again] if step.again is not None else None)
                for step in (world.steps[number] for number in left)
            )
            tries += 1
            if await fails(opened, replace(world, steps=steps)):
                world = replace(world, steps=steps)
                break
        else:
            size //= 2
    return world


async def replay(name: str) -> int:
    async with stage() as opened:
        world = make_world(name, STEPS)
        if not await fails(opened, world):
            print("nothing leaves the permitted set in this world")
            return 0
        world = await smaller(opened, world)
        for number, content in enumerate(world.revisions):
            print(f"revision {number}: {content['residency']}\n  {content['places.yaml']['places']}")
        for number, step in enumerate(world.steps):
            print(f"step {number}: {step}")
        for violation in await opened.play(world, Counter()):
            print(violation)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.residency", description=__doc__)
    parser.add_argument("seed", nargs="?", default="the permitted set")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--world")
    given = parser.parse_args()
    if given.world:
        return asyncio.run(replay(given.world))
    found = asyncio.run(search(given.seed, given.cases))
    print(report(found.seen))
    for violation in found.violations:
        print(violation)
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
