from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import errors
from gateway.labels import Labels, UnknownLabel, Vocabulary

VOCABULARY = Vocabulary(
    ("public", "internal", "confidential", "secret"),
    frozenset({"personal", "health"}),
    frozenset({"general"}),
)

calm = settings(deadline=None)

labels = st.builds(
    Labels, st.sampled_from(VOCABULARY.scale), st.frozensets(st.sampled_from(sorted(VOCABULARY.categories)))
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        (" , ,", None),
        ("confidential", Labels("confidential", frozenset())),
        ("personal", Labels("public", frozenset({"personal"}))),
        (" Personal,HEALTH , internal", Labels("internal", frozenset({"personal", "health"}))),
        ("public, secret, internal", Labels("secret", frozenset())),
        ("personal,personal", Labels("public", frozenset({"personal"}))),
    ],
)
def test_a_header_is_a_list_of_labels_of_which_the_highest_sensitivity_counts(
    header: str, expected: Labels | None
) -> None:
    assert VOCABULARY.parse(header) == expected


@pytest.mark.parametrize("header", ["personel", "personal; health", "public,unknown", "p" * 2000, "sécret"])
def test_a_label_outside_the_vocabulary_is_a_400_that_does_not_repeat_it(header: str) -> None:
    with pytest.raises(UnknownLabel) as raised:
        VOCABULARY.parse(header)

    assert isinstance(raised.value, errors.UnknownLabel)
    assert (raised.value.status, raised.value.code) == (400, "unknown_label")
    assert raised.value.label in header
    assert raised.value.label not in raised.value.message.replace("`personal`", "")


def test_an_unknown_label_comes_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownLabel) as raised:
        VOCABULARY.parse("personel")

    assert raised.value.message == (
        "a label is not in the vocabulary of `x-douane-labels`; did you mean `personal`?"
    )


def test_names_show_the_sensitivity_first_and_the_categories_sorted() -> None:
    assert Labels("secret", frozenset({"personal", "health"})).names() == ("secret", "health", "personal")


@calm
@given(labels, labels, labels)
def test_union_is_the_least_upper_bound_of_a_lattice(a: Labels, b: Labels, c: Labels) -> None:
    joined = VOCABULARY.union(a, b)

    assert VOCABULARY.within(a, joined)
    assert VOCABULARY.within(b, joined)
    assert joined == VOCABULARY.union(b, a)
    assert VOCABULARY.union(a, a) == a
    assert VOCABULARY.union(VOCABULARY.union(a, b), c) == VOCABULARY.union(a, VOCABULARY.union(b, c))
    assert VOCABULARY.union(a, VOCABULARY.lowest) == a
    assert VOCABULARY.union(a, VOCABULARY.highest) == VOCABULARY.highest
    if VOCABULARY.within(a, c) and VOCABULARY.within(b, c):
        assert VOCABULARY.within(joined, c)


@calm
@given(labels)
def test_names_and_from_names_are_inverse(a: Labels) -> None:
    assert VOCABULARY.from_names(a.names()) == a


def test_a_sensitivity_that_the_scale_lacks_has_no_rank() -> None:
    with pytest.raises(UnknownLabel):
        VOCABULARY.rank("personal")
