"""Without any one of its checks the gateway lets something out, and the search sees it."""

from __future__ import annotations

import asyncio

import pytest

from tests.residency.sabotage import SABOTAGES, Sabotage
from tests.residency.search import search
from tests.residency.worlds import Weights

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
CASES_MAX = 3000


@pytest.mark.parametrize("sabotage", [pytest.param(one, id=one.name) for one in SABOTAGES])
def test_without_this_check_something_leaves_the_permitted_set(sabotage: Sabotage) -> None:
    with sabotage.done():
        found = asyncio.run(search(sabotage.seed, CASES_MAX, Weights(sabotage.weights), until_found=True))

    assert found.violations, f"nothing was found in {found.cases} cases"
