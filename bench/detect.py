"""What detectors find, and what that takes: `python -m bench.detect` prints JSON; `--table` the docs' table.

The corpus is made up from a seed (`tests/detect/corpus.py`) and shares no code with the detectors. Times are
wall time of one thread, the median of many runs. `linear` holds, for each kind of hostile text, how much
longer eight times the text takes: about 8 for linear time, 64 for quadratic. `loop_gap_ms` is the longest
time that an event loop did not get to run while a large text was read in a thread, `re2_alone_ms` how long a
search of RE2 over that text takes: it lets go of the interpreter where the gap is shorter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.detect.budget import Budget, TooDense
from gateway.detect.kinds import KINDS
from gateway.detect.scanner import Scanner
from tests.detect.corpus import PROSE, corpus
from tests.detect.hostile import HOSTILE
from tests.detect.measured import score

SEED, OF_EACH = 2026, 200
TEXT_BYTES = 4096
FORWARDER_MS = 1000 / 2310  # a request of the bare forwarder: docs/performance.md, its best round
SMALL_BYTES, LARGE_BYTES = 32 * 1024, 256 * 1024


def median_ms(run: Callable[[], object], runs: int = 200) -> float:
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def texts() -> dict[str, str]:
    """4 KB each: prose of a language or several, and text that is made of what detectors look for."""
    english = [PROSE[0], "In 2024 revenue grew by 12.5 % to 1,234,567.89 dollars, as page 17 says."]
    curly = [line.replace("'", "’").replace(" in ", " – in ") for line in PROSE]
    dense = [document.text for document in corpus(SEED, 2) if document.things]
    return {
        "prose": repeated(" ".join(english)),
        "prose of five languages": repeated(" ".join(PROSE)),
        "prose with typographic marks": repeated(" ".join(curly)),
        "dense": repeated(" ".join(dense)),
    }


def repeated(text: str) -> str:
    return (f"{text} " * (TEXT_BYTES // len(text) + 1)).encode()[:TEXT_BYTES].decode(errors="ignore")


def read(scanner: Scanner, text: str) -> bool:
    """Whether the text was read to its end."""
    try:
        scanner.scan(text, "DE", Budget())
    except TooDense:
        return False
    return True


def linear(scanner: Scanner) -> dict[str, float]:
    """The ratio of times of two sizes, by kind of hostile text."""
    ratios = {}
    for name, make in HOSTILE.items():
        small, large = make(SMALL_BYTES), make(LARGE_BYTES)
        read(scanner, small)  # a first time builds RE2's states
        long_ms = median_ms(partial(read, scanner, large), 3)
        ratios[name] = round(long_ms / median_ms(partial(read, scanner, small), 5), 1)
    return ratios


async def loop_gap_ms(scanner: Scanner) -> float:
    """How long the loop is kept from running while four megabytes of prose are read in a thread."""
    text = "The committee met on Tuesday and agreed on most of the plan. " * 68_000
    longest, done = 0.0, asyncio.create_task(asyncio.to_thread(read, scanner, text))
    while not done.done():
        begun = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - begun)
    return longest * 1e3


def measure() -> dict[str, Any]:
    scanner = Scanner(KINDS)
    scores, _ = score(corpus(SEED, OF_EACH))
    ms = {name: round(median_ms(partial(read, scanner, text)), 3) for name, text in texts().items()}
    large = "The committee met on Tuesday and agreed on most of the plan. " * 68_000
    return {
        "seed": SEED,
        "of_each": OF_EACH,
        "kinds": {
            kind: {"recall": round(one.recall, 3), "precision": round(one.precision, 3)}
            for kind, one in scores.items()
        },
        "p50_ms_per_4_kib": ms,
        "share_of_forwarder": {name: round(value / FORWARDER_MS, 2) for name, value in ms.items()},
        "linear": linear(scanner),
        "re2_alone_ms": round(median_ms(partial(read, scanner, large), 3), 1),
        "loop_gap_ms": round(asyncio.run(loop_gap_ms(scanner)), 1),
    }


def table(found: dict[str, Any]) -> str:
    """The table of docs/detectors.md."""
    lines = ["| kind | recall | precision |", "|---|---|---|"]
    lines += [
        f"| `{kind}` | {one['recall']:.3f} | {one['precision']:.3f} |" for kind, one in found["kinds"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="only the table by kind, as Markdown")
    arguments = parser.parse_args()
    found = measure()
    print(table(found) if arguments.table else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
