"""`tokenizer.json`, the form in which Hugging Face keeps a vocabulary beside the weights: written and read.

The ids of o200k_harmony are ranks: byte-level BPE merges the adjacent pair whose concatenation has the lowest
id, until none is left. Hugging Face wants that as a list of merges. A token's merge is the last step of
encoding its own bytes with lower ranks only, and no other pair ever becomes that token: while its bytes stand
apart from their neighbours, they merge as if they were alone. So one merge a token says everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_engine.errors import VocabularyError
from local_engine.harmony.tokens import (
    ENDOFPROMPT,
    ENDOFTEXT,
    FIRST_SPECIAL,
    NAMES,
    RETURN,
    STARTOFTEXT,
    special_name,
)

FILE = "tokenizer.json"


def tokenizer_json(ranks: Mapping[bytes, int], pattern: str) -> dict[str, Any]:
    """The whole file for byte-level BPE over `ranks`, cut by the regular expression `pattern`.

    The special tokens up to `<|endofprompt|>` are named, as in the released file; ids behind it stay
    reserved.
    """
    letters = {byte: letter for letter, byte in byte_letters().items()}

    def spell(token: bytes) -> str:
        return token.decode("latin-1").translate(letters)

    ordered = sorted(ranks, key=ranks.__getitem__)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token,
                "content": special_name(token),
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in range(FIRST_SPECIAL, ENDOFPROMPT + 1)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # A piece that is a token as a whole is that token, as in tiktoken.
            "ignore_merges": True,
            "vocab": {spell(token): ranks[token] for token in ordered},
            "merges": [
                f"{spell(pair[0])} {spell(pair[1])}"
                for token in ordered
                if (pair := merged_from(token, ranks)) is not None
            ],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """The small file beside it, from which transformers knows what the special tokens are for."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": NAMES[STARTOFTEXT],
        "eos_token": NAMES[RETURN],
        "pad_token": NAMES[ENDOFTEXT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
    }


def merged_from(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two tokens that merge into `token`; None for a single byte, or what no merge ever gives."""
    parts = [token[at : at + 1] for at in range(len(token))]
    limit = ranks[token]
    while len(parts) > 2:
        best, place = limit, -1
        # A plain loop, for this runs millions of times when a checkpoint is written.
        for at in range(len(parts) - 1):
            rank = ranks.get(parts[at] + parts[at + 1], limit)
            if rank < best:
                best, place = rank, at
        if place < 0:
            return None
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


def read_tokenizer_json(path: Path) -> dict[bytes, int]:
    """Reads the ordinary tokens of a `tokenizer.json` and checks its special ones.

    Its ids are merge ranks for this vocabulary, so its merge list is not needed.
    Raises `VocabularyError` when it is not o200k_harmony.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        vocab: dict[str, int] = raw["model"]["vocab"]
        added = {item["id"]: item["content"] for item in raw["added_tokens"]}
        letters = byte_letters()
        ranks = {
            bytes([letters[letter] for letter in token]): rank
            for token, rank in vocab.items()
            if rank < FIRST_SPECIAL
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise VocabularyError(
            f"`{path}` is no byte-level bpe tokenizer: fetch the model's own file"
        ) from None
    for token, name in NAMES.items():
        if added.get(token, name) != name:
            raise VocabularyError(f"`{path}` gives token {token} another name than `{name}`")
    return ranks


def byte_letters() -> dict[str, int]:
    """The printable letter that byte-level BPE writes for each byte, reversed.

    Printable Latin-1 bytes are themselves; the others get the code points from 256 on, in byte order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}
