from __future__ import annotations

import pytest

from tests.shadow.bundles import Bundles, live_bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return live_bundle(tmp_path_factory.mktemp("bundles") / "live")
