from __future__ import annotations

import pytest
import yaml

from gateway.policy.problems import PolicyInvalid
from gateway.policy.source.document import Mark, parse_document


def test_scalars_are_read_as_yaml_1_2_reads_them() -> None:
    text = b"""
country: NO
answers: [yes, no, on, off, y, n, Yes, OFF]
booleans: [true, False, TRUE]
numbers: [12, -3, 1.5, .5, 1e3]
words: [111111111111111111111111, 012a, 1_000, 0x1F, 0o17, 12:30:00, 2026-11-23, .inf, .nan, 1.2.3]
quoted: ['true', "12", '']
"""

    data = parse_document("a.yaml", text).data

    assert data == {
        "country": "NO",
        "answers": ["yes", "no", "on", "off", "y", "n", "Yes", "OFF"],
        "booleans": [True, False, True],
        "numbers": [12, -3, 1.5, 0.5, 1000.0],
        "words": [
            "111111111111111111111111",
            "012a",
            "1_000",
            "0x1F",
            "0o17",
            "12:30:00",
            "2026-11-23",
            ".inf",
            ".nan",
            "1.2.3",
        ],
        "quoted": ["true", "12", ""],
    }


def test_every_key_and_value_has_its_line_and_column() -> None:
    document = parse_document("a.yaml", b"places:\n  - id: x\n    kind: bedrock\n  - {id: y}\n")

    assert document.mark(("places", 0, "kind"), key=True) == Mark(3, 5)
    assert document.mark(("places", 0, "kind")) == Mark(3, 11)
    assert document.mark(("places", 1, "id")) == Mark(4, 10)
    assert document.mark(("places", 1, "missing")) == Mark(4, 5)
    assert document.mark(("nowhere",)) == Mark(1, 1)


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, "the key `a` appears twice", "keep one of them"),
        (b"a: &x [1]\nb: *x\n", 1, "anchors and aliases are not supported", "write the value out"),
        (b"a: 1\nb: *x\n", 2, "anchors and aliases are not supported", "write the value out"),
        (
            b"a: !!python/object:os.system x\n",
            1,
            "the tag `tag:yaml.org,2002:python/object:os.system` is not supported",
            "remove it",
        ),
        (b"a: !mine {b: 1}\n", 1, "the tag `!mine` is not supported", "remove it"),
        (b"a: !mine [1]\n", 1, "the tag `!mine` is not supported", "remove it"),
        (b"? [a, b]\n: 1\n", 1, "a key must be a word", "write a plain key"),
        (b"", 1, "the file is empty", "see docs/policies.md"),
        (b"# only a comment\n", 1, "the file is empty", "see docs/policies.md"),
        (b"a: 1\n\xff\n", 2, "not UTF-8", "save the file as UTF-8"),
        (b"a: [1\n", 2, None, "check the indentation and quotes"),
        (b"a: 1\n b: 2\n", 2, None, "check the indentation and quotes"),
        (b"a: 1\n---\na: 2\n", 2, None, "check the indentation and quotes"),
        (b"a: \x07\n", 0, None, "remove the character"),
        (b"[" * 40 + b"]" * 40, 1, "nested more than 24 deep", "write it flatter"),
    ],
)
def test_what_a_policy_may_not_use_of_yaml_is_refused_at_its_line(
    text: bytes, line: int, message: str | None, hint: str | None
) -> None:
    with pytest.raises(PolicyInvalid) as raised:
        parse_document("a.yaml", text)

    (problem,) = raised.value.problems
    assert (problem.file, problem.line) == ("a.yaml", line)
    if message is not None:
        assert problem.message == message
    else:
        assert problem.message.startswith("not YAML: ")
    assert problem.hint == hint


def test_a_bomb_of_aliases_is_refused_before_it_is_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    with pytest.raises(PolicyInvalid) as raised:
        parse_document("a.yaml", "\n".join(lines).encode())

    assert raised.value.problems[0].message == "anchors and aliases are not supported"


def test_the_yaml_library_itself_is_left_as_it_was() -> None:
    parse_document("a.yaml", b"a: on\n")

    assert yaml.safe_load("a: on") == {"a": True}
