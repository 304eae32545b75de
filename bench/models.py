"""The models of the engine's bench: random weights of the 20b shape, and the same as files for llama.cpp.

Made once and kept in `.peers/models/`, under names that say what they are made from.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import gguf_model
from bench.peers.build import PEERS
from local_engine import make, presets
from local_engine.checkpoint import open_checkpoint
from local_engine.config import ModelConfig

MODELS = PEERS / "models"
PRESET = "20b-shape"


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint to measure."""

    path: Path
    config: ModelConfig
    nbytes: int

    @property
    def name(self) -> str:
        return f"{self.path.name}, {self.config.num_hidden_layers} layers"


def subject(path: Path) -> Subject:
    """Raises `CheckpointError` or `ConfigError`."""
    checkpoint = open_checkpoint(path)
    return Subject(path, checkpoint.config, checkpoint.nbytes)


def random_20b(layers: int, models: Path = MODELS) -> Path:
    """Random weights of the 20b shape with so many layers; the first layers are the same at any depth."""
    name = f"{PRESET}-{layers}-layers-{_digest(make.__file__, presets.__file__)}"
    return _kept(models / name, lambda to: make.make_checkpoint(to, PRESET, layers=layers))


def gguf_of(model: Path, dense: gguf_model.Dense, models: Path = MODELS) -> Path:
    """The same weights for llama.cpp. Raises `NotStarted` without the peers."""
    weights = sorted(model.glob("*.safetensors"))
    stamps = "".join(
        f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}\n" for file in weights
    )
    name = f"{model.name}-{dense}-{_digest(gguf_model.__file__, text=stamps)}.gguf"
    return _kept(models / name, lambda to: gguf_model.write(open_checkpoint(model), to, dense))


def _kept(path: Path, write: Callable[[Path], object]) -> Path:
    """`path`, written beside it first, so that what bears its name is whole."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as part:
        made = Path(part) / path.name
        write(made)
        os.rename(made, path)
    return path


def _digest(*sources: str | None, text: str = "") -> str:
    total = hashlib.sha256(text.encode())
    for source in sources:
        assert source is not None, "modules of this tree are files"
        total.update(Path(source).read_bytes())
    return total.hexdigest()[:12]
