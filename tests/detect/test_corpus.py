"""How much of what is there is found, and how much that is not there is left alone."""

from __future__ import annotations

import pytest

from gateway.detect.kinds import KINDS
from tests.detect.corpus import HARD_NEGATIVES, corpus
from tests.detect.corpus import KINDS as GENERATED
from tests.detect.measured import Score, score


@pytest.fixture(scope="module")
def scores() -> dict[str, Score]:
    return score(corpus(seed=11, of_each=60))[0]


def test_the_corpus_has_every_kind_and_is_the_same_for_the_same_seed() -> None:
    assert GENERATED.keys() == KINDS
    assert corpus(5, 2) == corpus(5, 2) != corpus(6, 2)
    assert {document.about for document in corpus(5, 1)} == KINDS | HARD_NEGATIVES.keys()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_is_found_and_little_else(scores: dict[str, Score], kind: str) -> None:
    assert scores[kind].things == 60
    assert scores[kind].recall >= 0.95
    assert scores[kind].precision >= 0.90
