"""One audit of real traffic for all tests that read it."""

from __future__ import annotations

import pytest

from .traffic import Traffic, make_traffic


@pytest.fixture(scope="session")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    return make_traffic(tmp_path_factory.mktemp("traffic"))
