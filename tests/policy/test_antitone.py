from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings

from gateway.policy.antitone import Witness, find_witness, steps
from gateway.policy.bundle import Bundle
from tests.policy.bundles import compiled, edited, loaded_default, problems_of
from tests.policy.made_up import bundles

calm = settings(deadline=None, max_examples=30)


def witness_by_brute_force(bundle: Bundle) -> bool:
    """Whether some labels permit a cell that fewer labels do not, over every pair and every fact."""
    table, vocabulary = bundle.table, bundle.vocabulary
    for tenant, purpose, model in itertools.product(
        {*table.tenants.values(), *table.zones.values()}, table.purposes.values(), table.models.values()
    ):
        for fewer, more in itertools.product(table.labels, table.labels):
            if vocabulary.within(fewer, more):
                rest = tenant & purpose & model
                before = table.allowed(rest & table.labels[fewer])
                if table.allowed(rest & table.labels[more]) & ~before:
                    return True
    return False


@calm
@given(bundles(labels_in_permits=True))
def test_a_witness_is_found_just_when_some_labels_permit_more_than_fewer_do(bundle: Bundle) -> None:
    witness = find_witness(bundle.table, bundle.vocabulary)

    assert (witness is not None) is witness_by_brute_force(bundle)
    if witness is not None:
        assert_is_true(witness, bundle)


def assert_is_true(witness: Witness, bundle: Bundle) -> None:
    """What the witness says really happens, at its own step, by its own rule."""
    zone, purpose, model = witness.example
    table = bundle.table
    masks = [mask for (_, where), mask in table.tenants.items() if where == zone] + [table.zones[zone]]
    rests = [mask & table.purposes[purpose] & table.models[model] for mask in masks]
    cell = table.cell(witness.action, witness.place)
    assert any(
        table.allowed(rest & table.labels[witness.more]) & cell
        and not table.allowed(rest & table.labels[witness.fewer]) & cell
        for rest in rests
    )
    assert (witness.fewer, witness.more) in list(steps(table, bundle.vocabulary))
    (rule,) = [rule for rule in bundle.rules if rule.id == witness.rule]
    assert rule.facts.names_labels
    assert witness.action in rule.actions


@calm
@given(bundles(labels_in_permits=False))
def test_forbids_on_labels_never_break_it(bundle: Bundle) -> None:
    assert find_witness(bundle.table, bundle.vocabulary) is None


def test_steps_connect_every_point_of_the_lattice_to_those_just_above_it() -> None:
    table = loaded_default().bundle.table
    vocabulary = loaded_default().bundle.vocabulary

    found = list(steps(table, vocabulary))

    assert len(found) == len(set(found))
    for fewer, more in found:
        assert vocabulary.within(fewer, more)
        size = len(more.names()) - len(fewer.names())
        rise = vocabulary.rank(more.sensitivity) - vocabulary.rank(fewer.sensitivity)
        assert size + rise == 1
    # 8 sets of categories times 3 rises, and 4 sensitivities times 12 additions to a set of three.
    assert len(found) == 8 * 3 + 4 * 12


@pytest.mark.parametrize(
    ("condition", "fewer", "more", "place"),
    [
        ("sensitivity_at_least: confidential", "internal", "confidential", "bedrock-frankfurt"),
        ("labels_any: [health]", "public", "public, health", "bedrock-frankfurt"),
        (
            "labels_all: [financial, health]",
            "public, financial",
            "public, financial, health",
            "bedrock-frankfurt",
        ),
    ],
)
def test_a_permit_for_labels_that_fewer_labels_lack_does_not_load(
    condition: str, fewer: str, more: str, place: str
) -> None:
    files = edited(
        "residency/90-permits.yaml",
        "  when: {tenant_in: [EEA, GB, US], place_in: [EEA, GB, US]}",
        f"  when: {{tenant_in: [EEA, GB, US], place_in: [EEA, GB, US], {condition}}}",
    )

    (problem,) = problems_of(files)

    assert (problem.file, problem.line) == ("residency/90-permits.yaml", 10)
    assert problem.message.startswith(
        "more labels would permit more: `european-and-us-tenants-may-use-bedrock` permits `infer` at "
        f"`{place}` for labels `{more}`, but nothing does for the fewer labels `{fewer}` (tenant in `"
    )
    assert problem.hint == (
        "a permit must not depend on labels; permit without them, and forbid what labels rule out"
    )


def test_a_permit_that_names_labels_loads_where_another_permits_the_same_without_them() -> None:
    files = edited(
        "residency/90-permits.yaml",
        "- id: european-and-us",
        "- id: needless\n  permit: [infer]\n  when: {labels_any: [personal], attested: on-premises}\n"
        "- id: european-and-us",
    )
    files["tests/needless.yaml"] = files["tests/eea.yaml"].replace(b"- name: ", b"- name: again, ")

    assert "needless" in {rule.id for rule in compiled(files).bundle.rules}
