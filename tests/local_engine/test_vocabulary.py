"""The vocabulary is o200k_harmony, from either source, and nothing else passes for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import HarmonyEncoding
from tiktoken_ext.openai_public import o200k_base  # type: ignore[import-untyped]

from local_engine import vocabulary as module
from local_engine.errors import VocabularyError
from local_engine.harmony.tokens import NAMES, STOP_TOKENS, VOCABULARY_SIZE
from local_engine.vocabulary import SPLIT_PATTERN, Vocabulary, find_ranks, load_vocabulary, read_ranks

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    st.sampled_from("aB1 '\n\r\t.,/s漢字éß😀\u0301"), max_size=60
)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """A checkpoint directory with a `tokenizer.json` as Hugging Face writes it, without its merges."""
    letters = {byte: letter for letter, byte in module._byte_letters().items()}
    vocab = {
        "".join(letters[byte] for byte in vocabulary.token_bytes(token)): token for token in range(199_998)
    }
    added = [{"id": token, "content": name} for token, name in NAMES.items()]
    folder = tmp_path_factory.mktemp("tokenizer")
    raw = {"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_text_is_encoded_as_the_library_encodes_it(
    library: HarmonyEncoding, vocabulary: Vocabulary, text: str
) -> None:
    tokens = vocabulary.encode(text)

    assert tokens == library.encode(text, disallowed_special=())
    assert b"".join(vocabulary.token_bytes(token) for token in tokens) == text.encode()


def test_special_tokens_have_the_ids_of_harmony(library: HarmonyEncoding, vocabulary: Vocabulary) -> None:
    for token, name in NAMES.items():
        if name != "<|endofprompt|>":  # known to tiktoken, reserved in the library
            assert library.encode(name, allowed_special="all") == [token]
        assert vocabulary.token_bytes(token) == name.encode()
    assert vocabulary.token_bytes(VOCABULARY_SIZE - 1) == b"<|reserved_201087|>"
    assert set(library.stop_tokens_for_assistant_actions()) == STOP_TOKENS - {199_999}
    with pytest.raises(KeyError):
        vocabulary.token_bytes(VOCABULARY_SIZE)


def test_the_split_pattern_is_tiktokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiktoken_ext.openai_public.load_tiktoken_bpe", lambda *args, **kwargs: {})

    assert o200k_base()["pat_str"] == SPLIT_PATTERN


def test_a_checkpoints_tokenizer_json_gives_the_same_vocabulary(
    vocabulary: Vocabulary, tokenizer_json: Path
) -> None:
    other = load_vocabulary(tokenizer_json)
    text = "Grüße, 世界! <|end|> it's 12345\n\n  end"

    assert other.encode(text) == vocabulary.encode(text)
    assert all(other.token_bytes(t) == vocabulary.token_bytes(t) for t in range(0, VOCABULARY_SIZE, 997))


def test_named_ranks_come_before_everything_else(tokenizer_json: Path, tmp_path: Path) -> None:
    absent = tmp_path / "o200k_base.tiktoken"

    with pytest.raises(VocabularyError, match=r"o200k_base\.tiktoken` cannot be read"):
        load_vocabulary(tokenizer_json, absent)


def test_other_ranks_are_refused_by_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "ranks"
    path.write_bytes(find_ranks().read_bytes() + b"\n")

    with pytest.raises(VocabularyError, match="has sha256"):
        read_ranks(path)


def test_a_vocabulary_with_holes_is_refused() -> None:
    with pytest.raises(VocabularyError, match="it is not o200k_base"):
        Vocabulary({b"a": 0, b"b": 2})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "is no byte-level bpe tokenizer"),
        ({"model": {"vocab": {"\n": 0}}, "added_tokens": []}, "is no byte-level bpe tokenizer"),
        (
            {"model": {"vocab": {}}, "added_tokens": [{"id": 200007, "content": "</s>"}]},
            "gives token 200007 another name than `<|end|>`",
        ),
    ],
    ids=["empty", "not byte-level", "other specials"],
)
def test_another_models_tokenizer_json_is_refused(tmp_path: Path, raw: object, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))

    with pytest.raises(VocabularyError) as refusal:
        load_vocabulary(tmp_path)

    assert message in str(refusal.value)


def test_without_litellm_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(
        VocabularyError, match=r"put the model's `tokenizer\.json` beside its weights, install"
    ):
        load_vocabulary()
