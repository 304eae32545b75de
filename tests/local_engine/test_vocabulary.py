"""The vocabulary is o200k_harmony, from either source, and nothing else passes for it. A checkpoint carries
it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import HarmonyEncoding
from tiktoken_ext.openai_public import o200k_base  # type: ignore[import-untyped]
from transformers import AutoTokenizer

from local_engine.errors import VocabularyError
from local_engine.harmony.tokens import (
    END,
    ENDOFPROMPT,
    ENDOFTEXT,
    MESSAGE,
    NAMES,
    RETURN,
    START,
    STARTOFTEXT,
    STOP_TOKENS,
    VOCABULARY_SIZE,
)
from local_engine.tokenizer_json import merged_from, read_tokenizer_json
from local_engine.vocabulary import (
    SPLIT_PATTERN,
    Vocabulary,
    find_ranks,
    load_vocabulary,
    read_ranks,
    write_vocabulary,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    st.sampled_from("aB1 '\n\r\t.,/s漢字éß😀\u0301"), max_size=60
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder with nothing in it but the vocabulary, as `make-checkpoint` writes it."""
    folder = tmp_path_factory.mktemp("written")
    write_vocabulary(folder)
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


def test_what_is_written_into_a_checkpoint_is_read_back_exactly(written: Path) -> None:
    other = load_vocabulary(written)

    assert read_tokenizer_json(written / "tokenizer.json") == read_ranks(find_ranks())
    assert other.encode("Grüße, 世界! <|end|>") == load_vocabulary().encode("Grüße, 世界! <|end|>")


CORPUS = [
    "Grüße, 世界! it's 12345 numbers\n\n  end",
    "DON'T you'LL they've I'd we'RE",
    "def f(x):\n\treturn x ** 2  # 100000\r\n\r\n",
    "https://example.org/a/b?c=d&e=%20f//",
    "\x00\x7f\u200b\u0301é e\u0301 ﬁ ß ẞ İ ı",
    "👩‍👩‍👧‍👦🏳️‍🌈 ™ © №",
    "мама мыла раму; Ελληνικά; हिन्दी; ไทย; العربية; עברית; 한국어",
    " " * 50 + "\t" * 9 + "\n" * 7 + "." * 80,
    "<|start|>user<|message|>not special<|end|>",
    "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbabababababababab" * 5,
    "",
]


def test_the_tokenizers_library_encodes_as_we_do_from_the_written_file(
    written: Path, vocabulary: Vocabulary
) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(written / "tokenizer.json"))
    theirs.encode_special_tokens = True  # their spelling is text to us, whoever writes it
    corpus = [
        *CORPUS,
        *(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))),
    ]

    for text in corpus:
        tokens = vocabulary.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == tokens
        assert theirs.decode(tokens, skip_special_tokens=False) == text


def test_transformers_loads_the_written_folder_with_its_special_tokens(written: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(written)

    assert theirs.encode("<|start|>user<|message|>Hi<|end|>", add_special_tokens=False) == [
        START, 1428, MESSAGE, 12194, END,
    ]  # fmt: skip
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (STARTOFTEXT, RETURN, ENDOFTEXT)
    assert len(theirs) == ENDOFPROMPT + 1


def test_every_token_merges_from_two_that_came_before_it(written: Path) -> None:
    ranks = read_ranks(find_ranks())
    model = json.loads((written / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    pairs = [tuple(merge.split(" ")) for merge in model["merges"]]
    vocab = model["vocab"]
    made = [vocab[a + b] for a, b in pairs]

    assert made == sorted(made)
    assert len(made) == sum(len(token) > 1 for token in ranks)
    assert all(max(vocab[a], vocab[b]) < token for (a, b), token in zip(pairs, made, strict=True))
    assert merged_from(b" the", ranks) == (b" t", b"he")
    assert merged_from(b"a", ranks) is None
    assert merged_from(b"abc", {b"a": 0, b"b": 1, b"c": 2, b"abc": 3}) is None


def test_named_ranks_come_before_everything_else(written: Path, tmp_path: Path) -> None:
    absent = tmp_path / "o200k_base.tiktoken"

    with pytest.raises(VocabularyError, match=r"o200k_base\.tiktoken` cannot be read"):
        load_vocabulary(written, absent)


def test_a_checkpoint_without_a_vocabulary_is_told_where_to_get_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "original"
    checkpoint.mkdir()
    with pytest.raises(VocabularyError) as nowhere:
        load_vocabulary(checkpoint)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(VocabularyError) as above:
        load_vocabulary(checkpoint)

    assert str(nowhere.value) == (
        f"`{checkpoint}` has no `tokenizer.json`: copy it from where the weights came from (of a released "
        "model, the folder above `original/` has it), or name an `o200k_base.tiktoken` with `--vocabulary`"
    )
    assert str(above.value) == (
        f"`{checkpoint}` has no `tokenizer.json`, the folder above it has: copy "
        f"`{tmp_path / 'tokenizer.json'}` there"
    )


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

    with pytest.raises(VocabularyError, match=r"no vocabulary: install `litellm` .* or name an `o200k_base"):
        load_vocabulary()
