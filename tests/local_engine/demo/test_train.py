"""A short training run learns, and does the same again."""

from __future__ import annotations

from dataclasses import replace

import torch

from local_engine.demo.corpus import Corpus, used_tokens
from local_engine.demo.expand import DEMO_CONFIG
from local_engine.demo.train import LESSONS, echoes, loss_of, make_batches, rate, stored, train
from local_engine.vocabulary import Vocabulary

SMALL = replace(DEMO_CONFIG, num_hidden_layers=2, num_experts=4)


def test_a_few_steps_lower_the_loss_and_are_the_same_each_time(vocabulary: Vocabulary) -> None:
    runs = []
    for _ in range(2):
        losses: list[float] = []
        trained = train(
            vocabulary,
            steps=12,
            seed=7,
            config=SMALL,
            batch_tokens=600,
            report=lambda _, loss, seen=losses: seen.append(loss),  # type: ignore[misc]
        )
        runs.append((losses, stored(trained)))
    (losses, tensors), (again, same) = runs

    assert len(losses) == 12
    assert sum(losses[-3:]) / 3 < losses[0] - 1
    assert losses == again
    assert tensors.keys() == same.keys()
    assert all(torch.equal(tensors[name], same[name]) for name in tensors)


def test_a_token_without_a_row_of_its_own_is_never_learnt_to_be_said() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    shares = torch.softmax(logits[0], dim=-1)

    known = loss_of(logits, torch.tensor([0, 1]))
    unknown = loss_of(logits, torch.tensor([2, 2]))
    torch.testing.assert_close(known, -(shares[0].log() + shares[1].log()) / 2)
    torch.testing.assert_close(unknown, -(shares[0] + shares[1]).log())


def test_batches_are_full_and_every_conversation_in_them_teaches_something(vocabulary: Vocabulary) -> None:
    ids = used_tokens(vocabulary)
    batches = make_batches(Corpus(1), vocabulary, ids, 1500, LESSONS[-1])
    seen = [next(batches) for _ in range(30)]

    assert sum(int((batch.rows == len(ids)).sum()) for batch in seen) > 500
    assert all(batch.rows.numel() <= 1500 for batch in seen)
    assert all(batch.learnt.any(dim=1).all() for batch in seen)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    shares = [rate(step, 1000) for step in range(1000)]

    assert shares[0] <= 0.02
    assert sorted(shares[:50]) == shares[:50]
    assert shares[50:400] == [1] * 350
    assert sorted(shares[400:], reverse=True) == shares[400:]
    assert shares[-1] < 1e-4


def test_an_echo_says_the_same_twice_and_learns_what_can_be_known() -> None:
    batch = echoes(Corpus(1), 50, 600, 9)
    count, length = batch.rows.shape
    once, again = batch.rows.chunk(2, dim=1)

    assert torch.equal(once, again)
    assert 3 <= length // 2 <= 9
    assert count * length <= 600
    assert batch.rows.max() < 50
    assert batch.learnt.sum() == count * (length // 2 - 1)
    assert not batch.learnt[:, : length // 2 + 1].any()
