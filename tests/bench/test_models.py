"""What the bench measures is written once and kept under a name that says what it is made from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import models
from bench.models import gguf_of, random_20b, subject
from local_engine.make import make_checkpoint


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what is written, which takes a file's place."""
    names: list[str] = []

    def write(_: object, path: Path, dense: str) -> None:
        names.append(dense)
        path.write_text(dense)

    monkeypatch.setattr("bench.gguf_model.write", write)
    return names


def test_random_weights_are_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "PRESET", "tiny")

    first, again, deeper = (random_20b(layers, tmp_path) for layers in (1, 1, 2))

    assert first == again != deeper
    assert first.name.startswith("tiny-1-layers-")
    assert (subject(first).config.num_hidden_layers, subject(deeper).config.num_hidden_layers) == (1, 2)
    assert sorted(tmp_path.iterdir()) == sorted([first, deeper])


def test_a_gguf_is_made_once_for_each_precision_and_again_for_other_weights(
    tmp_path: Path, written: list[str]
) -> None:
    model, kept = tmp_path / "model", tmp_path / "kept"
    make_checkpoint(model, "tiny", layers=1)

    found = [gguf_of(model, dense, kept) for dense in ("bf16", "q8_0", "bf16")]
    os.utime(model / "model.safetensors", ns=(1, 1))
    changed = gguf_of(model, "bf16", kept)

    assert found[0] == found[2] != found[1]
    assert changed not in found
    assert written == ["bf16", "q8_0", "bf16"]
    assert sorted(path.read_text() for path in kept.iterdir()) == ["bf16", "bf16", "q8_0"]


def test_what_breaks_off_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: object, path: Path, dense: str) -> None:
        path.write_text(dense)
        raise OSError("no space left")

    monkeypatch.setattr("bench.gguf_model.write", breaks)
    make_checkpoint(tmp_path / "model", "tiny", layers=1)

    with pytest.raises(OSError, match="no space left"):
        gguf_of(tmp_path / "model", "bf16", tmp_path / "kept")

    assert list((tmp_path / "kept").iterdir()) == []
