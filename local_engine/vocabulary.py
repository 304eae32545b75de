"""The vocabulary o200k_harmony: from a checkpoint's `tokenizer.json`, and written into one that is made here.

What is written comes from the o200k_base ranks, 3.6 MB that neither tiktoken nor openai-harmony ship; the
`litellm` wheel carries the exact file. It is found by its path: litellm itself is never imported.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from pathlib import Path

import tiktoken

from local_engine.errors import VocabularyError
from local_engine.harmony.tokens import FIRST_SPECIAL, VOCABULARY_SIZE, special_name
from local_engine.tokenizer_json import FILE, read_tokenizer_json, tokenizer_config, tokenizer_json

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
    """The vocabulary: from `ranks` if given, else the checkpoint's `tokenizer.json`.

    A checkpoint answers for its own vocabulary; litellm's ranks are only read when no checkpoint is named.
    Raises `VocabularyError` when it is not there or wrong.
    """
    if ranks is not None:
        return Vocabulary(read_ranks(ranks))
    if checkpoint is None:
        return Vocabulary(read_ranks(find_ranks()))
    path = checkpoint / FILE
    if path.is_file():
        return Vocabulary(read_tokenizer_json(path))
    beside = checkpoint.parent / FILE
    if beside.is_file():
        raise VocabularyError(
            f"`{checkpoint}` has no `{FILE}`, the folder above it has: copy `{beside}` there"
        )
    raise VocabularyError(
        f"`{checkpoint}` has no `{FILE}`: copy it from where the weights came from (of a released model, the "
        "folder above `original/` has it), or name an `o200k_base.tiktoken` with `--vocabulary`"
    )


def write_vocabulary(checkpoint: Path, ranks: Path | None = None) -> list[Path]:
    """Writes `tokenizer.json` and `tokenizer_config.json` into a checkpoint; returns both paths.

    Raises `VocabularyError` when neither `ranks` nor litellm has the vocabulary.
    """
    contents = {
        FILE: tokenizer_json(read_ranks(ranks or find_ranks()), SPLIT_PATTERN),
        "tokenizer_config.json": tokenizer_config(),
    }
    for name, content in contents.items():
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (checkpoint / name).write_text(text + "\n", encoding="utf-8")
    return [checkpoint / name for name in contents]


def find_ranks() -> Path:
    """The ranks inside the installed litellm, without importing it. Raises `VocabularyError` if absent."""
    spec = importlib.util.find_spec("litellm")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / LITELLM_RANKS
        if path.is_file():
            return path
    raise VocabularyError(
        "no vocabulary: install `litellm` (its wheel carries the file), or name an `o200k_base.tiktoken` "
        "with `--vocabulary`"
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
