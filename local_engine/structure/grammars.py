"""JSON schemas compiled with llguidance, and the last ones kept.

Answers are compact: no blanks between tokens. Control characters without a short escape cannot be written
inside strings: with `\\u` a key could be spelled in a second way, past the schema of its value.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from local_engine.errors import Fault
from local_engine.harmony.tokens import FIRST_SPECIAL, RETURN, VOCABULARY_SIZE, Tokenizer, special_name
from local_engine.structure import masks
from local_engine.structure.schema import SchemaError
from local_engine.vocabulary import SPLIT_PATTERN

KEPT_GRAMMARS = 64

# The compiler's own messages quote the schema, so that only their beginnings are looked at.
_REASONS = {
    "oneOf": "uses `oneOf` whose schemas may overlap, which cannot be enforced: use `anyOf`",
    "Unsatisfiable schema": "allows no value at all",
    "regex parse error": "has a `pattern` that is wrong or cannot be enforced",
    "lookarounds": "has a `pattern` that looks around or at word boundaries, which cannot be enforced",
    "circular references": "has a `$ref` beside other keywords that leads back to itself",
    "patternProperty regexes": "uses `patternProperties` that may overlap, which cannot be enforced",
    "min/maxProperties": "uses `minProperties` or `maxProperties` beside `properties` that are not required",
}
_REFUSED = "satisfy the grammar"
_TOO_COMPLEX = "is too complex to enforce: use fewer alternatives and shorter counts"


class JsonText:
    """A JSON text on its way, token by token. Not for two threads at once."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the text so far is valid as it stands; it may still be possible to go on."""
        return self._matcher.is_accepting()

    def fill(self, mask: masks.Mask) -> None:
        """Writes which ordinary tokens may come next: none once nothing can be added.

        Where the text can go on in one way only, it is the token with which the vocabulary would write it.

        Releases the interpreter lock meanwhile. Raises `Fault` when the schema turns out too complex.
        """
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise Fault("a schema of the request became too complex to follow: simplify it")
        masks.clear_specials(mask)

    def push(self, token: int) -> bool:
        """Takes a token; False when the grammar does not allow it, after which nothing works any more.

        An allowed token may lead to where the schema is too complex: then the next `fill` raises.
        """
        return self._matcher.consume_token(token) or _REFUSED not in self._matcher.get_error()


class JsonGrammar:
    """A compiled schema. Any thread may start texts of it."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def start(self) -> JsonText:
        """A new text."""
        return JsonText(self._matcher.deep_copy())


class JsonGrammars:
    """Compiles schemas for one vocabulary. Takes 0.5 s to make; threads may share it."""

    def __init__(self, vocabulary: Tokenizer) -> None:
        self._tokenizer = _tokenizer(vocabulary)
        self._limits = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
        self._kept: OrderedDict[str, JsonGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, schema: Mapping[str, Any]) -> JsonGrammar:
        """The grammar of an `enforceable` schema, from those kept if it is there.

        May take a second for the largest schemas. Raises `SchemaError`.
        """
        key = json.dumps(schema)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        grammar = JsonGrammar(self._compile(key))
        with self._lock:
            self._kept[key] = grammar
            while len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        return grammar

    def _compile(self, schema: str) -> LLMatcher:
        try:
            source = LLMatcher.grammar_from_json_schema(
                schema,
                overrides={
                    "whitespace_flexible": False,
                    "lenient": False,
                    "coerce_one_of": False,
                    "json_allowed_escapes": 'nrbtf\\"',
                },
            )
        except ValueError:
            raise SchemaError("holds text that is not valid Unicode") from None
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)
        if not matcher.is_error():
            # Some schemas fail only at their first token, and the next ones start from the work done here.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise SchemaError(_reason(matcher.get_error()))
        return matcher


def _tokenizer(vocabulary: Tokenizer) -> LLTokenizer:
    # The way of `llguidance.tiktoken`, which reads private fields of tiktoken to get here. It needs no Python
    # to encode forced text, so that a mask is never waiting for the interpreter lock.
    made: LLTokenizer = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]
        encoder={vocabulary.token_bytes(token): token for token in range(FIRST_SPECIAL)},
        special_tokens={special_name(token): token for token in range(FIRST_SPECIAL, VOCABULARY_SIZE)},
        pattern=SPLIT_PATTERN,
        eos_token=RETURN,
        n_vocab=VOCABULARY_SIZE,
        slices=LLTokenizer.json_slices(),
    )
    return made


def _reason(error: str) -> str:
    return next((reason for start, reason in _REASONS.items() if error.startswith(start)), _TOO_COMPLEX)
