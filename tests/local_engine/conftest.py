"""Shared, slow to make, never changed by a test: the vocabulary, the library checking ours, checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from local_engine.ops import Ops
from tests.local_engine.kernels import ops_named

# What a fixture needs is imported by it: the tests of the engine's core run where only torch is.
if TYPE_CHECKING:
    from openai_harmony import HarmonyEncoding

    from local_engine.vocabulary import Vocabulary


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """These models are tiny, and threads that spin for work are ruinous on a shared machine."""
    torch.set_num_threads(1)


@pytest.fixture
def ops(request: pytest.FixtureRequest) -> Ops:
    """The set of operations that a test is parametrised with by name."""
    return ops_named(request.param)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """o200k_harmony, as the engine loads it without a `tokenizer.json`."""
    from local_engine.vocabulary import load_vocabulary

    return load_vocabulary()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> HarmonyEncoding:
    """The `openai_harmony` library over the same ranks, so that it downloads nothing."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    from local_engine.vocabulary import find_ranks

    folder = tmp_path_factory.mktemp("ranks")
    shutil.copy(find_ranks(), folder / "o200k_base.tiktoken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(folder))
        return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The `tiny` preset under one seed, in both formats."""
    from local_engine.make import make_checkpoint

    folder = tmp_path_factory.mktemp("tiny")
    for form in ("hf", "original"):
        make_checkpoint(folder / form, "tiny", form, seed=1)
    return {form: folder / form for form in ("hf", "original")}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `demo` preset, seed 0, in the Hugging Face format."""
    from local_engine.make import make_checkpoint

    folder = tmp_path_factory.mktemp("demo") / "checkpoint"
    make_checkpoint(folder, "demo")
    return folder
