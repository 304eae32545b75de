"""What counts as one, what does not, and where it stands."""

from __future__ import annotations

import itertools

import pytest

from gateway.detect.budget import CHECKS_MAX, Budget, TooDense
from gateway.detect.kinds import KINDS, kinds_of
from gateway.detect.scanner import Scanner
from tests.detect.hostile import HOSTILE

SCANNER = Scanner(KINDS)


def found(text: str, region: str = "DE") -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in SCANNER.scan(text, region, Budget())]


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("４１１１ １１１１ １１１１ １１１１", "４１１１ １１１１ １１１１ １１１１"),
        ("٤١١١ ١١١١ ١١١١ ١١١١", "٤١١١ ١١١١ ١١١١ ١١١١"),
        ("card 4111\u20111111\u20111111\u20111111.", "4111\u20111111\u20111111\u20111111"),
        ("card 4111\u00a01111\u202f1111\u20091111!", "4111\u00a01111\u202f1111\u20091111"),
        ("\u2066card 41\u200b11 1111\u200f 1111 1111\u2069", "41\u200b11 1111\u200f 1111 1111"),
        ("card 4111\u034f1111\ufe0f1111\u31641111.", "4111\u034f1111\ufe0f1111\u31641111"),
        ("sie zahlte mit 4111111111111111, während", "4111111111111111"),
        ("卡号4111111111111111。", "4111111111111111"),
        ('{"n":"x\\n4111111111111111"}', "4111111111111111"),
        ("Visa4111111111111111", "4111111111111111"),
    ],
)
def test_a_card_is_found_however_its_digits_and_spaces_are_written(text: str, there: str) -> None:
    assert found(text) == [("card", there)]


@pytest.mark.parametrize(
    "text",
    [
        "abc4111111111111111",
        "41111111111111112",
        "4111111111111111abc",
        "/files/4111111111111111.pdf",
        "550e8400-e29b-41d4-a716-446655440000",
        "1.4111111111111111",
        "4111 1111 1111 1112",
        "order 123456782",
        "2024-11-30T22:12:20.123456Z",
        "10.20.30.40:8080, v1.2.3",
        "react@18.2.0 icon@2x.png git@code.example.com:team/x.git @Override",
        "password: <your password> token = get_token(x) secret=${SECRET}",
        "123456782@localhost",
    ],
)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_a_weak_number_counts_beside_a_word_that_says_what_it_is() -> None:
    assert found("123456782") == []
    assert found("BSN 123456782") == [("nl-bsn", "123456782")]
    assert found("123456782 is my BSN") == [("nl-bsn", "123456782")]
    assert found('{"bsn":"123456782"}') == [("nl-bsn", "123456782")]


def test_a_national_phone_number_needs_a_word_and_is_dialled_from_the_callers_country() -> None:
    assert found("call 030 12345678", "DE") == [("phone", "030 12345678")]
    assert found("call 030 12345678", "US") == []
    assert found("030 12345678", "DE") == []
    assert found("at +44 20 7946 0958 or 2024", "DE") == [("phone", "+44 20 7946 0958")]


def test_a_private_key_is_found_to_its_end_and_one_without_an_end_to_the_end_of_its_body() -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nAAAA\nBBBB=\n-----END EC PRIVATE KEY-----"

    assert found(f"a {key} b") == [("private-key", key)]
    unclosed = "-----BEGIN PRIVATE KEY-----\nAAAA"
    assert found(unclosed) == [("private-key", unclosed)]


@pytest.mark.parametrize(
    ("text", "both"),
    [
        (
            "token=alice99@example.com",
            [("password", "alice99@example.com"), ("email", "alice99@example.com")],
        ),
        (
            "password: DE89370400440532013000",
            [("password", "DE89370400440532013000"), ("iban", "DE89370400440532013000")],
        ),
        (
            "-----BEGIN PRIVATE KEY----- of bob@example.com -----END PRIVATE KEY----- DE89370400440532013000",
            [
                ("private-key", "-----BEGIN PRIVATE KEY----- of bob@example.com -----END PRIVATE KEY-----"),
                ("email", "bob@example.com"),
                ("iban", "DE89370400440532013000"),
            ],
        ),
    ],
)
def test_a_secret_hides_nothing_that_stands_within_it(text: str, both: list[tuple[str, str]]) -> None:
    assert found(text) == both


def test_a_scanner_looks_for_the_kinds_that_it_is_given_alone() -> None:
    text = "ada@example.org BSN 123456782 DE89370400440532013000"

    assert [one.kind for one in Scanner(frozenset({"iban"})).scan(text, "DE", Budget())] == ["iban"]
    assert Scanner(frozenset()).scan(text, "DE", Budget()) == []
    assert kinds_of(["national-ids", "iban"]) > {"nl-bsn", "iban"}


def test_text_that_holds_too_many_candidates_is_not_read_to_its_end() -> None:
    with pytest.raises(TooDense):
        SCANNER.scan("4111 1111 1111 1112 " * (CHECKS_MAX + 1), "DE", Budget())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_costs_checks_in_proportion_to_its_size(name: str) -> None:
    def spent(size: int) -> int:
        budget = Budget()
        list(SCANNER.scan(HOSTILE[name](size), "DE", budget))
        return CHECKS_MAX - budget.left

    assert spent(16_384) <= 5 * spent(4_096) + 5


def test_every_two_things_beside_each_other_are_both_found() -> None:
    things = {
        "card": "4111 1111 1111 1111", "iban": "DE89 3704 0044 0532 0130 00", "email": "ada@example.org",
        "phone": "+44 20 7946 0958", "us-ssn": "536-90-4399", "ch-ahv": "756.9217.0769.85",
        "aws-key": "AKIAIOSFODNN7EXAMPLE", "es-dni": "12345678Z",
    }  # fmt: skip
    for (one, first), (other, second) in itertools.permutations(things.items(), 2):
        assert found(f"{first}; {second}") == [(one, first), (other, second)]
