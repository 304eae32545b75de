"""The size of patterns, and what in them cannot be enforced."""

from __future__ import annotations

import pytest

from local_engine.structure.pattern import expanded_size, has_controls, has_flags, names_controls


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("^abc$", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("a{7,}", 7),
        ("(ab){3}", 6),
        ("(a{10}(?:b{2}c){5}){4}", 100),
        ("a{10}{10}", 100),
        ("[abc]{4}", 4),
        ("[]a{9}]{2}", 2),
        ("[^]a]{2}", 2),
        ("[\\]a]{2}", 2),
        ("\\({3}", 3),
        ("\\d+\\.\\d*", 3),
        ("a|b|cd", 4),
        ("{3}", 0),
        ("a{x}", 4),
        ("a{0}", 0),
        ("(((a{100}){100}){100}){100}", 100_000_000),
        ("ab)c", 3),
        ("((ab", 2),
    ],
)
def test_counts_are_multiplied_out(pattern: str, size: int) -> None:
    assert expanded_size(pattern) == size


@pytest.mark.parametrize(
    ("pattern", "flags"),
    [
        ("(a)(?:b)", False),
        ("\\(?a", False),
        ("\\\\(?=a)", True),
        ("(?i)a", True),
        ("(?x: a{9} {9})", True),
        ("(?<name>a)", True),
        ("a(?!b)", True),
    ],
)
def test_groups_with_flags_or_names_are_found(pattern: str, flags: bool) -> None:
    assert has_flags(pattern) is flags


@pytest.mark.parametrize(
    "pattern", ["\x01", "a\\x01", "\\x1F", "\\x7f", "\\x{1}", "\\u0001", "\\u001f", "\\u007F"]
)
@pytest.mark.parametrize("before", ["", "\\\\", "[", "a"])
def test_control_characters_are_found_in_patterns(pattern: str, before: str) -> None:
    assert names_controls(before + pattern)


@pytest.mark.parametrize("pattern", ["\\u{1}", "\\a", "\\v", "\\0", "\\cA", "\\U00000001"])
def test_rarer_spellings_of_control_characters_are_found(pattern: str) -> None:
    assert names_controls(pattern)


@pytest.mark.parametrize(
    "pattern", ["\\n\\t\\r\\f", "\\\\x01", "\\\\a", "\\x20", "\\u4e00-\\u9fff", "é\n", "\\w\\s"]
)
def test_other_characters_are_no_control_characters(pattern: str) -> None:
    assert not names_controls(pattern)


def test_plain_text_has_no_escapes() -> None:
    assert not has_controls("C:\\apps\\x01 and\ttab")
    assert has_controls("a\x7f")
    assert all(has_controls(chr(code)) == (chr(code) not in "\b\t\n\f\r") for code in range(32))
