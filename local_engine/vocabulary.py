"""The vocabulary o200k_harmony, from a checkpoint's `tokenizer.json` or from the o200k_base ranks.

The ranks are 3.6 MB that neither tiktoken nor openai-harmony ship; the `litellm` wheel carries the exact
file. It is found by its path: litellm itself is never imported.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from pathlib import Path

import tiktoken

from local_engine.errors import VocabularyError
from local_engine.harmony.tokens import FIRST_SPECIAL, NAMES, VOCABULARY_SIZE, special_name

RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
LITELLM_RANKS = Path("litellm_core_utils", "tokenizers", "fb374d419588a4632f3f557e76b4b70aebbca790")

# How o200k_base cuts text before merging bytes: words with their case pattern and contraction, up to three
# digits, punctuation runs, line ends, blanks.
SPLIT_PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


class Vocabulary:
    """Text to ids and ids to bytes. Implements `harmony.tokens.Tokenizer`.

    `ranks` maps the bytes of the 199,998 ordinary tokens to their ids. Raises `VocabularyError` when they are
    not exactly 0 .. 199,997.
    """

    def __init__(self, ranks: dict[bytes, int]) -> None:
        if sorted(ranks.values()) != list(range(FIRST_SPECIAL)):
            raise VocabularyError(
                f"the vocabulary must have the ids 0 to {FIRST_SPECIAL - 1}, each once: it is not o200k_base"
            )
        specials = {special_name(token): token for token in range(FIRST_SPECIAL, VOCABULARY_SIZE)}
        self._encoding = tiktoken.Encoding(
            "o200k_harmony", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=specials
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, where a special token's spelling is just text. Lone surrogates become U+FFFD."""
        return self._encoding.encode_ordinary(text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; for a special one its spelling. Raises `KeyError` outside 0 .. 201,087."""
        return self._encoding.decode_single_token_bytes(token)


def load_vocabulary(checkpoint: Path | None = None, ranks: Path | None = None) -> Vocabulary:
    """The vocabulary: from `ranks` if given, else the checkpoint's `tokenizer.json`, else litellm's ranks.

    Raises `VocabularyError` when none of them is there or the one found is wrong.
    """
    if ranks is not None:
        return Vocabulary(read_ranks(ranks))
    if checkpoint is not None and (checkpoint / "tokenizer.json").is_file():
        return Vocabulary(read_tokenizer_json(checkpoint / "tokenizer.json"))
    return Vocabulary(read_ranks(find_ranks()))


def find_ranks() -> Path:
    """The ranks inside the installed litellm, without importing it. Raises `VocabularyError` if absent."""
    spec = importlib.util.find_spec("litellm")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / LITELLM_RANKS
        if path.is_file():
            return path
    raise VocabularyError(
        "no vocabulary: put the model's `tokenizer.json` beside its weights, install `litellm` (its wheel "
        "carries the file), or name an `o200k_base.tiktoken` with `--vocabulary`"
    )


def read_ranks(path: Path) -> dict[bytes, int]:
    """Reads tiktoken's format, base64 and id per line. Raises `VocabularyError` on a wrong digest."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VocabularyError(f"`{path}` cannot be read: {error.strerror}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != RANKS_SHA256:
        raise VocabularyError(f"`{path}` has sha256 `{found}`, but o200k_base has `{RANKS_SHA256}`")
    pairs = (line.split() for line in data.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def read_tokenizer_json(path: Path) -> dict[bytes, int]:
    """Reads the ordinary tokens of a Hugging Face `tokenizer.json` and checks its special ones.

    Its ids are merge ranks for this vocabulary, so its merge list is not needed.
    Raises `VocabularyError` when it is not o200k_harmony.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        vocab: dict[str, int] = raw["model"]["vocab"]
        added = {item["id"]: item["content"] for item in raw["added_tokens"]}
        letters = _byte_letters()
        ranks = {
            bytes(letters[letter] for letter in token): rank
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


def _byte_letters() -> dict[str, int]:
    """The printable letter that byte-level BPE writes for each byte, reversed.

    Printable Latin-1 bytes are themselves; the others get the code points from 256 on, in byte order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}
