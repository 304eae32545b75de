"""Bundles with Cedar's answers about them, worked out once for all tests of this folder."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.facts import Facts
from gateway.policy.bundle import Bundle
from gateway.policy.cedar import export_cedar
from tests.policy.agreement import Answer, Cedar, Question, questions
from tests.policy.bundles import (
    every_condition,
    loaded_default,
    one_of_each_class,
    with_tenant_in_every_zone,
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A bundle, and Cedar's answer to the questions about every class of it."""

    bundle: Bundle
    facts: int
    answers: tuple[tuple[Question, Answer], ...]


def judge(bundle: Bundle, policies: str, facts: list[Facts]) -> Judged:
    """Asks what each place offers for all of these facts, and what it does not offer for some of them."""
    cedar = Cedar.of(policies, export_cedar(bundle).entities)
    asked = [*questions(bundle, facts, offered=True), *questions(bundle, facts[::16])]
    return Judged(bundle, len(facts), tuple(cedar.answers(asked, bundle)))


@pytest.fixture(scope="session")
def hand_written() -> str:
    """Cedar for the default bundle that no program wrote."""
    return Path(__file__).with_name("default.cedar").read_text()


@pytest.fixture(scope="session")
def default(hand_written: str) -> Judged:
    """The default bundle, judged by hand-written Cedar."""
    bundle = with_tenant_in_every_zone(loaded_default().bundle)
    return judge(bundle, hand_written, one_of_each_class(bundle))


@pytest.fixture(scope="session")
def everything() -> Judged:
    """A bundle whose rules use every condition, judged by its own export for a fixed sample of its classes.

    Cedar takes some 0.1 ms a question; test_decisions holds all of this bundle against the reference.
    """
    bundle = with_tenant_in_every_zone(every_condition())
    facts = random.Random(7).sample(one_of_each_class(bundle), 350)
    return judge(bundle, export_cedar(bundle).policies, facts)
