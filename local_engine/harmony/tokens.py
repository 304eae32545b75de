"""The special tokens of o200k_harmony and the vocabulary seen from harmony.

Ids from openai/gpt-oss `tokenizer.py` and openai/harmony `public_encodings.rs`.
"""

from __future__ import annotations

from typing import Protocol

STARTOFTEXT = 199998
ENDOFTEXT = 199999
RETURN = 200002
CONSTRAIN = 200003
CHANNEL = 200005
START = 200006
END = 200007
MESSAGE = 200008
CALL = 200012
ENDOFPROMPT = 200018

FIRST_SPECIAL = 199998
VOCABULARY_SIZE = 201088

STOP_TOKENS = frozenset({RETURN, CALL, ENDOFTEXT})
"""What ends a turn. `<|end|>` does not: it ends one message, and the turn goes on with the next."""

NAMES = {
    STARTOFTEXT: "<|startoftext|>",
    ENDOFTEXT: "<|endoftext|>",
    RETURN: "<|return|>",
    CONSTRAIN: "<|constrain|>",
    CHANNEL: "<|channel|>",
    START: "<|start|>",
    END: "<|end|>",
    MESSAGE: "<|message|>",
    CALL: "<|call|>",
    ENDOFPROMPT: "<|endofprompt|>",
}
"""The named special tokens; every other id from `FIRST_SPECIAL` on is `<|reserved_N|>`."""


class Tokenizer(Protocol):
    """What rendering and parsing need of a vocabulary."""

    def encode(self, text: str) -> list[int]:
        """Encodes text; never yields a special token, whatever the text says."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for."""


def special_name(token: int) -> str:
    """The spelling of a special token."""
    return NAMES.get(token, f"<|reserved_{token}|>")
