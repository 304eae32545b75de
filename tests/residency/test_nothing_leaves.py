"""Whatever is asked, fails, or changes meanwhile: nothing reaches a place that the bundle's source denies."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.residency.amount import CASES, SEED
from tests.residency.coverage import missing, report
from tests.residency.search import Found, search

pytestmark = [pytest.mark.larger, pytest.mark.timeout(900)]  # thousands of requests, once


@pytest.fixture(scope="module")
def found() -> Found:
    found = asyncio.run(search(SEED, CASES))
    sys.stderr.write(f"seed `{SEED}`\n{report(found.seen)}\n")
    return found


def test_nothing_leaves_the_permitted_set(found: Found) -> None:
    first = found.violations[0].seed if found.violations else ""
    again = f"python -m tests.residency --world '{first}'"
    assert [str(one) for one in found.violations] == [], f"to play it again: {again}"


def test_everything_that_could_go_wrong_was_met_often_enough(found: Found) -> None:
    assert missing(found.seen, CASES) == [], report(found.seen)
