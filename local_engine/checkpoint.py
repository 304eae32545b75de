"""Reads a checkpoint of either format, memory-mapped, under one set of names.

Files come from the index when there is one and from a glob otherwise; shard numbers are never interpreted
(the released ones start at 0 with "of N-1"). The set of tensors must be exactly the one the configuration
calls for: a missing, extra, misshapen or mistyped tensor is an error before anything is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from local_engine.config import Format, ModelConfig, read_config
from local_engine.errors import CheckpointError
from local_engine.tensors import TensorSpec, stored_as, tensor_specs

PRESET_KEY = "douane.preset"
SEED_KEY = "douane.seed"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the weights come from: `preset` names a preset of this package, None a foreign file."""

    preset: str | None
    seed: int | None

    @property
    def fingerprint_prefix(self) -> str | None:
        """`douane-demo`, or `douane-<preset>-random`, so that no answer passes for the real model's."""
        match self.preset:
            case None:
                return None
            case "demo":
                return "douane-demo"
            case preset:
                return f"douane-{preset}-random"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint. Tensors are read when asked for, by their original names."""

    path: Path
    config: ModelConfig
    format: Format
    origin: Origin
    _parts: Mapping[str, list[TensorSpec]]
    _files: Mapping[str, Any]

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored: bf16, or u8 for packed experts. Mapped, not copied, if it is whole on disk.

        Raises `KeyError` for a name the configuration does not call for.
        """
        parts = [self._files[part.name].get_tensor(part.name) for part in self._parts[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for parts in self._parts.values() for part in parts)

    @property
    def fingerprint(self) -> str:
        """What an answer's `system_fingerprint` says: honest about made-up weights, else a short digest."""
        if self.origin.fingerprint_prefix is not None:
            return self.origin.fingerprint_prefix
        sizes = [[str(file.name), file.stat().st_size] for file in _weight_files(self.path)]
        digest = hashlib.sha256(json.dumps([self.config.to_original(), sizes]).encode())
        return f"douane-{digest.hexdigest()[:12]}"


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a directory with `config.json` and `*.safetensors`. Raises `ConfigError` or `CheckpointError`."""
    if not (path / "config.json").is_file() and (path / "original" / "config.json").is_file():
        raise CheckpointError(f"`{path}` holds the original format one level down: use `{path / 'original'}`")
    config, form = read_config(path / "config.json")
    files: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for file in _weight_files(path):
        opened = _open(file)
        metadata |= opened.metadata() or {}
        for name in opened.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            if name in files:
                raise CheckpointError(f"`{name}` is in more than one file of `{path}`")
            files[name] = opened
    parts = {spec.name: stored_as(spec, config, form) for spec in tensor_specs(config)}
    _check(path, [part for group in parts.values() for part in group], files)
    return Checkpoint(path, config, form, _origin(metadata), parts, files)


def _weight_files(path: Path) -> list[Path]:
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if len(indexes) > 1:
        raise CheckpointError(f"`{path}` has more than one `*.safetensors.index.json`: keep one")
    if indexes:
        try:
            names = sorted(set(json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f"`{indexes[0]}` is no safetensors index: fetch it again") from None
        found = [path / Path(name).name for name in names]
        for file in found:
            if not file.is_file():
                raise CheckpointError(f"`{file}` is missing: the index names it, so fetch it again")
    else:
        found = sorted(path.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"`{path}` holds no `*.safetensors`: point at a checkpoint's own directory")
    return found


def _open(file: Path) -> Any:
    try:
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"`{file}` cannot be read as safetensors: {error}") from None


def _check(path: Path, wanted: list[TensorSpec], files: Mapping[str, Any]) -> None:
    for spec in wanted:
        if spec.name not in files:
            raise CheckpointError(f"`{path}` lacks the tensor `{spec.name}`: fetch the checkpoint again")
        stored = files[spec.name].get_slice(spec.name)
        shape, dtype = tuple(stored.get_shape()), str(stored.get_dtype())
        if (shape, dtype) != (spec.shape, spec.dtype):
            raise CheckpointError(
                f"`{spec.name}` is {dtype} {list(shape)}, but the configuration calls for "
                f"{spec.dtype} {list(spec.shape)}"
            )
    extra = files.keys() - {spec.name for spec in wanted}
    if extra:
        raise CheckpointError(f"`{path}` holds a tensor no gpt-oss has: `{min(extra)}`")


def _origin(metadata: Mapping[str, str]) -> Origin:
    seed = metadata.get(SEED_KEY)
    return Origin(metadata.get(PRESET_KEY), int(seed) if seed is not None and seed.isdigit() else None)
