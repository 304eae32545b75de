"""Planted bugs: those in the compiler and the exporter are caught by Cedar, those in the proof by cases.

A planted bug that survives fails its test: then the cases here say too little.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest

from gateway.places import Action
from gateway.policy import cedar, permit
from gateway.policy import compile as table_module
from gateway.policy.antitone import find_witness
from gateway.policy.bundle import Bundle
from gateway.policy.compile import Table
from gateway.policy.rules import Effect, FactCondition, PlaceCondition, Rule
from tests.policy.agreement import Cedar, disagreements
from tests.policy.bundles import bundle_of, loaded_default
from tests.policy.conftest import Judged
from tests.policy.mutants import OF_THE_COMPILER, OF_THE_EXPORTER, OF_THE_PROOF, Mutant


@pytest.fixture(scope="module")
def judged(default: Judged, everything: Judged) -> tuple[Judged, ...]:
    """Both bundles, with the questions of the large one in a fixed random order: bugs show early in it."""
    answers = list(everything.answers)
    random.Random(20).shuffle(answers)
    return replace(everything, answers=tuple(answers)), default


def test_there_are_enough_planted_bugs_and_no_two_are_alike() -> None:
    planted = [*OF_THE_COMPILER, *OF_THE_EXPORTER, *OF_THE_PROOF]

    assert len({(mutant.module.__name__, mutant.old, mutant.new) for mutant in planted}) == len(planted)
    assert len(OF_THE_COMPILER) + len(OF_THE_EXPORTER) >= 30


def test_without_a_planted_bug_the_same_machinery_finds_nothing(judged: tuple[Judged, ...]) -> None:
    for module in (table_module, permit):
        assert list(compiler_disagreements(unchanged(module), module, judged)) == []
    assert list(exporter_disagreements(unchanged(cedar), judged[1:])) == []


def unchanged(module: ModuleType) -> ModuleType:
    """The module built anew with nothing changed: building it is not what is caught."""
    first = "from __future__ import annotations\n"
    return Mutant("no bug", module, first, first).build()


@pytest.mark.parametrize("mutant", OF_THE_COMPILER, ids=lambda mutant: mutant.what)
def test_a_bug_in_the_compiler_is_caught(mutant: Mutant, judged: tuple[Judged, ...]) -> None:
    assert next(compiler_disagreements(mutant.build(), mutant.module, judged), None) is not None


@pytest.mark.parametrize("mutant", OF_THE_EXPORTER, ids=lambda mutant: mutant.what)
def test_a_bug_in_the_exporter_is_caught(mutant: Mutant, judged: tuple[Judged, ...]) -> None:
    assert next(exporter_disagreements(mutant.build(), judged), None) is not None


def compiler_disagreements(module: ModuleType, of: ModuleType, judged: tuple[Judged, ...]) -> Iterator[str]:
    """Where the altered compiler, or the altered decision over the right table, differs from Cedar."""
    for one in judged:
        if of is table_module:
            bundle = replace(one.bundle, table=table_by(module, one.bundle))
            yield from disagreements(one.answers, bundle)
        else:
            yield from disagreements(one.answers, one.bundle, module.permit)


def exporter_disagreements(module: ModuleType, judged: tuple[Judged, ...]) -> Iterator[str]:
    """Where Cedar with the altered export differs from the right table."""
    for one in judged:
        export = module.export_cedar(one.bundle)
        asked = (question for question, _ in one.answers)
        answers = Cedar.of(export.policies, export.entities).answers(asked, one.bundle)
        yield from disagreements(answers, one.bundle)


def table_by(module: ModuleType, bundle: Bundle) -> Table:
    """The table of a bundle, by another compiler."""
    table: Table = module.compile_table(
        bundle.rules,
        bundle.places,
        bundle.vocabulary,
        bundle.geography.zones,
        [(tenant.id, tenant.zone) for tenant in bundle.tenants.values()],
        bundle.routes.models,
    )
    return table


def permit_rule(number: int, **facts: object) -> Rule:
    return rule(number, Effect.PERMIT, FactCondition(**facts))  # type: ignore[arg-type]


def rule(number: int, effect: Effect, facts: FactCondition) -> Rule:
    return Rule(
        f"rule-{number}",
        effect,
        frozenset(Action),
        facts,
        PlaceCondition(),
        PlaceCondition(),
        None,
        "",
        "f",
        number,
    )


@pytest.fixture(scope="module")
def parts() -> Bundle:
    """Places and vocabulary for rules made up here."""
    return loaded_default().bundle


def table_with(bundle: Bundle, *rules: Rule) -> Bundle:
    """The places and vocabulary of a bundle under other rules."""
    return bundle_of(
        rules, bundle.places.values(), bundle.vocabulary, bundle.geography.zones, bundle.routes.models
    )


BREAKS_ANTITONY = {
    "a permit from internal upwards": [permit_rule(0, sensitivity_at_least="internal")],
    "a permit from secret upwards": [permit_rule(0, sensitivity_at_least="secret")],
    "a permit for personal data": [permit_rule(0, labels_any=frozenset({"personal"}))],
    "a permit for personal and health data together": [
        permit_rule(0, labels_all=frozenset({"personal", "health"})),
    ],
    "a permit for personal data of one country only": [
        permit_rule(0, tenant_in=frozenset({"NO"}), labels_any=frozenset({"personal"})),
    ],
    "a permit for personal data for one purpose only": [
        permit_rule(0, purpose_in=frozenset({"care"}), labels_any=frozenset({"personal"})),
    ],
    "a permit for labels beside one that covers another model": [
        permit_rule(0, model_in=frozenset({"gpt-oss-20b"})),
        permit_rule(1, labels_any=frozenset({"personal"})),
    ],
}
KEEPS_ANTITONY = {
    "a permit for everything": [permit_rule(0)],
    "a permit for labels that another permit covers": [
        permit_rule(0),
        permit_rule(1, labels_any=frozenset({"personal"}), sensitivity_at_least="internal"),
    ],
    "a forbid for labels": [
        permit_rule(0),
        rule(1, Effect.FORBID, FactCondition(labels_any=frozenset({"personal"}))),
        rule(2, Effect.FORBID, FactCondition(sensitivity_at_least="internal")),
    ],
}


@pytest.mark.parametrize("name", BREAKS_ANTITONY)
def test_rules_that_permit_more_for_more_labels_have_a_witness(name: str, parts: Bundle) -> None:
    bundle = table_with(parts, *BREAKS_ANTITONY[name])

    assert find_witness(bundle.table, bundle.vocabulary) is not None


@pytest.mark.parametrize("name", KEEPS_ANTITONY)
def test_rules_that_never_permit_more_for_more_labels_have_no_witness(name: str, parts: Bundle) -> None:
    bundle = table_with(parts, *KEEPS_ANTITONY[name])

    assert find_witness(bundle.table, bundle.vocabulary) is None


@pytest.mark.parametrize("mutant", OF_THE_PROOF, ids=lambda mutant: mutant.what)
def test_a_bug_in_the_proof_is_caught(mutant: Mutant, parts: Bundle) -> None:
    module = mutant.build()
    wrong = []
    for cases, breaks in ((BREAKS_ANTITONY, True), (KEEPS_ANTITONY, False)):
        for name, rules in cases.items():
            bundle = table_with(parts, *rules)
            if (module.find_witness(bundle.table, bundle.vocabulary) is not None) is not breaks:
                wrong.append(name)

    assert wrong
