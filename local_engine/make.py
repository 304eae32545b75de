"""Writes the checkpoint of a preset in either format, one shard at a time.

Nothing larger than a shard is ever in memory, so the 65 GB shape can be written by a small machine. Files
appear under their final names only once they are whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from local_engine.checkpoint import PRESET_KEY, SEED_KEY
from local_engine.config import Format
from local_engine.errors import CheckpointError
from local_engine.harmony.tokens import VOCABULARY_SIZE
from local_engine.presets import PRESETS, Preset
from local_engine.tensors import TensorSpec, stored_as, tensor_specs
from local_engine.vocabulary import write_vocabulary

SHARD_BYTES = 2 << 30


def make_checkpoint(
    path: Path,
    preset: str,
    format: Format = "hf",  # noqa: A002 - the word of the command line
    seed: int = 0,
    *,
    layers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    ranks: Path | None = None,
) -> list[Path]:
    """Writes weights, vocabulary and `config.json` into `path`; returns the files written, `config.json`
    last.

    `layers` makes a random preset that deep instead: what is cheap to write and to hold says most about
    speed. The vocabulary comes from `ranks`, an `o200k_base.tiktoken`, or from litellm's; a preset with fewer
    ids gets none. Raises `CheckpointError` for an unknown preset, for layers of the demo's or a directory
    that cannot be made or already holds a checkpoint, `VocabularyError` without a vocabulary.
    """
    if preset not in PRESETS:
        raise CheckpointError(f"no preset `{preset}`: choose one of {', '.join(f'`{p}`' for p in PRESETS)}")
    chosen = PRESETS[preset]
    if layers is not None:
        if preset == "demo":
            raise CheckpointError("the demo was trained with the layers it has: choose another preset")
        chosen = chosen.cut_to(layers)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"`{path}` cannot be made: {error.strerror}; choose another directory"
        ) from None
    if any(path.glob("*.safetensors")) or (path / "config.json").exists():
        raise CheckpointError(f"`{path}` already holds a checkpoint: remove it or choose another directory")
    shards = _plan(chosen, format, shard_bytes)
    metadata = {"format": "pt", PRESET_KEY: chosen.name, SEED_KEY: str(seed)}
    # Before gigabytes are written: this is what may be missing.
    written = write_vocabulary(path, ranks) if chosen.config.vocab_size == VOCABULARY_SIZE else []
    weight_map: dict[str, str] = {}
    for number, specs in enumerate(shards, start=1):
        name = (
            "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        )
        tensors = dict(stored for spec in specs for stored in _stored(chosen, spec, format, seed))
        save_file(tensors, str(path / (name + ".partial")), metadata=metadata)
        os.replace(path / (name + ".partial"), path / name)
        written.append(path / name)
        weight_map |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        total = sum(spec.nbytes for spec in tensor_specs(chosen.config))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        written.append(_write_json(path / "model.safetensors.index.json", index))
    config = chosen.config.to_hf() if format == "hf" else chosen.config.to_original()
    return [*written, _write_json(path / "config.json", config)]


def cached_preset(models: Path, preset: str) -> tuple[Path, bool]:
    """A preset kept under `models`, and whether it was made just now.

    Its folder is named by a digest of what the presets are made from, so that another version of this package
    makes its own.
    """
    here = Path(__file__).parent
    sources = [here / "presets.py", here / "make.py", *here.glob("demo*"), *here.glob("demo/*")]
    digest = hashlib.sha256()
    for source in sorted(source for source in sources if source.is_file()):
        digest.update(source.read_bytes())
    folder = models / f"{preset}-{digest.hexdigest()[:12]}"
    if (folder / "config.json").is_file():
        return folder, False
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{preset}-", dir=models) as part:
        made = Path(part) / preset
        make_checkpoint(made, preset)
        # Another process may have been faster; its checkpoint is the same.
        with contextlib.suppress(OSError):
            os.rename(made, folder)
    return folder, True


def _plan(preset: Preset, form: Format, shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in tensor_specs(preset.config):
        if shards[-1] and filled + spec.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return shards


def _stored(preset: Preset, spec: TensorSpec, form: Format, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    whole = preset.tensor(spec, seed)
    row = 0
    parts = stored_as(spec, preset.config, form)
    for part in parts:
        rows = whole[row : row + part.shape[0]]
        # safetensors refuses tensors that share memory, so the pieces of a split one are copies.
        yield part.name, rows.clone() if len(parts) > 1 else rows
        row += part.shape[0]


def _write_json(path: Path, value: object) -> Path:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path
