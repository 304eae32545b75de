"""Schemas thrown together at random: what one allows is JSON, and validates with another implementation."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from local_engine.structure.grammars import JsonGrammars
from local_engine.structure.masks import WORDS
from local_engine.structure.schema import SchemaError, enforceable
from local_engine.vocabulary import Vocabulary
from tests.local_engine.structure.models import uniform

NAMES = ["a", "b", "aa", 'a"q', "é"]
NUMBERS = [0, 1, -1, 3, 10, -7, 1.5, -0.25, 100, 12.75]
VALUES: list[Any] = [None, True, "", "a", "b\n", 'x"y', "é", [], ["a", 1], {"a": None}, *NUMBERS]
PATTERNS = ["^a", "b$", "[0-9]{2}", "^[a-c]*$", "x|y", "^\\w+$", "^.{1,2}$"]
ATTEMPTS = 3
MAX_TOKENS = 80


class Schemas:
    """Makes schemas of every keyword that is enforced, in any combination and any order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def schema(self) -> dict[str, Any]:
        """A schema with two definitions to refer to."""
        return {**self._one(3), "$defs": {"x": self._one(1), "y": self._one(2)}}

    def _one(self, depth: int) -> dict[str, Any]:
        kinds = ["null", "boolean", "integer", "number", "string"] + ["array", "object"] * 2 * (depth > 0)
        kind = self._random.choice(kinds)
        pairs: list[tuple[str, Any]] = []
        if self._often(0.8):
            pairs.append(("type", kind))
        for family, keywords in self._keywords(depth).items():
            if family in (kind, "any") or self._often(0.1):
                pairs += [
                    (keyword, make()) for keyword, (share, make) in keywords.items() if self._often(share)
                ]
        self._random.shuffle(pairs)
        return dict(pairs)

    def _keywords(self, depth: int) -> dict[str, Any]:
        pick, sample = self._random.choice, self._random.sample
        bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        numeric = {bound: (0.3, lambda: pick(NUMBERS)) for bound in bounds}
        numeric["multipleOf"] = (0.15, lambda: pick([1, 2, 5]))
        nested = depth > 0
        return {
            "integer": numeric,
            "number": numeric,
            "string": {
                "maxLength": (0.8, lambda: self._random.randrange(5)),
                "minLength": (0.2, lambda: self._random.randrange(3)),
                "pattern": (0.2, lambda: pick(PATTERNS)),
            },
            "array": {
                "prefixItems": (0.4 * nested, lambda: [self._one(depth - 1) for _ in range(2)]),
                "items": (0.6 * nested, lambda: self._one(depth - 1)),
                "maxItems": (0.9, lambda: self._random.randrange(4)),
                "minItems": (0.2, lambda: self._random.randrange(3)),
            },
            "object": {
                "properties": (
                    0.8 * nested,
                    lambda: {name: self._one(depth - 1) for name in sample(NAMES, 2)},
                ),
                "additionalProperties": (0.6 * nested, lambda: pick([False, False, self._one(depth - 1)])),
                "required": (0.5, lambda: sample(NAMES, self._random.randrange(3))),
                "patternProperties": (
                    0.15 * nested,
                    lambda: {pick(["^a", "c$", "^.$"]): self._one(depth - 1)},
                ),
                "minProperties": (0.1, lambda: self._random.randrange(2)),
                "maxProperties": (0.2, lambda: self._random.randrange(3)),
            },
            "any": {
                "const": (0.08, lambda: pick(VALUES)),
                "enum": (0.12, lambda: sample(VALUES, 3)),
                "anyOf": (0.15 * nested, lambda: [self._one(depth - 1) for _ in range(2)]),
                "allOf": (0.12 * nested, lambda: [self._one(depth - 1) for _ in range(2)]),
                "oneOf": (0.1 * nested, lambda: [self._one(depth - 1) for _ in range(2)]),
                "$ref": (0.08, lambda: pick(["#/$defs/x", "#/$defs/y", "#"])),
            },
        }

    def _often(self, share: float) -> bool:
        return self._random.random() < share


@pytest.fixture(scope="module")
def grammars(vocabulary: Vocabulary) -> JsonGrammars:
    """A compiler of this module's own, so that its schemas push nobody else's out."""
    return JsonGrammars(vocabulary)


def test_whatever_a_schema_allows_validates(grammars: JsonGrammars, vocabulary: Vocabulary) -> None:
    complete = 0
    mask = np.zeros(WORDS, np.int32)
    for seed in range(80):
        schema = Schemas(seed).schema()
        try:
            grammar = grammars.compile(enforceable(schema))
        except SchemaError:
            continue
        validator = Draft202012Validator(schema)
        for attempt in range(ATTEMPTS):
            text, draw, said = grammar.start(), uniform(seed * ATTEMPTS + attempt), b""
            for _ in range(MAX_TOKENS):
                text.fill(mask)
                if text.complete:
                    assert validator.is_valid(json.loads(said)), (json.dumps(schema), said)
                    complete += 1
                if not mask.any():
                    break
                token = draw(mask)
                assert text.push(token)
                said += vocabulary.token_bytes(token)
    assert complete > 100


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_numbers_keep_to_their_bounds(grammars: JsonGrammars, vocabulary: Vocabulary, kind: str) -> None:
    pick = random.Random(kind)
    bounds = [0, 1, -1, 1.5, -1.5, 2, 0.5, 9, 9.5, 10, 10.5, 99.75, -100]
    taken = 0
    for _ in range(80):
        keywords = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
        schema = {"type": kind} | {keyword: pick.choice(bounds) for keyword in pick.sample(keywords, 2)}
        try:
            grammar = grammars.compile(enforceable(schema))
        except SchemaError:
            continue
        validator = Draft202012Validator(schema)
        for value in {bound + step for bound in bounds for step in (0, 0.25, -0.25)}:
            for spelling in {f"{value:g}", f"{value:.1f}", f"{value:.2f}"}:
                text = grammar.start()
                if all(text.push(token) for token in vocabulary.encode(spelling)) and text.complete:
                    assert validator.is_valid(json.loads(spelling)), (schema, spelling)
                    taken += 1
    assert taken > 100
