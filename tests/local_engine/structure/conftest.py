"""Structures take half a second to make and are never changed by a test but for what they keep compiled."""

from __future__ import annotations

import pytest

from local_engine.structure.request import Structures
from local_engine.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def structures(vocabulary: Vocabulary) -> Structures:
    """Structures over o200k_harmony."""
    return Structures(vocabulary)
