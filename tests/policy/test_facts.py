from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.facts import Caller, Facts, Limits, above_ceiling, collect_facts
from gateway.labels import Labels
from tests.policy.test_labels import VOCABULARY, calm, labels

CALLER = Caller(
    tenant="acme",
    key_id="main",
    zone="DE",
    purpose="general",
    labels=Labels("internal", frozenset()),
    floor=Labels("public", frozenset({"personal"})),
    ceiling=Labels("confidential", frozenset({"personal"})),
    limits=Limits(),
    models=None,
)


def test_the_default_is_assumed_only_when_nothing_is_declared() -> None:
    silent = collect_facts(CALLER, "gpt-oss-20b", None, None, None, VOCABULARY)
    declared = collect_facts(
        CALLER, "gpt-oss-20b", Labels("public", frozenset({"health"})), None, None, VOCABULARY
    )

    assert silent == Facts(
        "acme", "DE", "general", "gpt-oss-20b", Labels("internal", frozenset({"personal"}))
    )
    assert declared.labels == Labels("public", frozenset({"personal", "health"}))


@calm
@given(
    st.none() | labels,
    st.none() | labels,
    st.none() | labels,
    labels,
)
def test_floor_taint_and_detected_labels_join_whatever_the_header_says(
    header: Labels | None, taint: Labels | None, detected: Labels | None, floor: Labels
) -> None:
    caller = replace(CALLER, floor=floor)

    facts = collect_facts(caller, "gpt-oss-20b", header, taint, detected, VOCABULARY)

    present = [one for one in (header or caller.labels, floor, taint, detected) if one is not None]
    assert facts.labels == VOCABULARY.union(*present)
    for one in present:
        assert VOCABULARY.within(one, facts.labels)


@calm
@given(labels, labels)
def test_a_caller_who_declares_more_never_carries_less(fewer: Labels, added: Labels) -> None:
    more = VOCABULARY.union(fewer, added)

    before = collect_facts(CALLER, "m", fewer, None, None, VOCABULARY)
    after = collect_facts(CALLER, "m", more, None, None, VOCABULARY)

    assert VOCABULARY.within(before.labels, after.labels)


def test_labels_above_the_ceiling_are_named() -> None:
    facts = Facts("acme", "DE", "general", "m", Labels("secret", frozenset({"personal", "health"})))
    fine = Facts("acme", "DE", "general", "m", Labels("confidential", frozenset({"personal"})))

    assert above_ceiling(facts, CALLER, VOCABULARY) == ("secret", "health")
    assert above_ceiling(fine, CALLER, VOCABULARY) == ()
