"""Reads a checkpoint of either format, memory-mapped, under one set of names.

Files come from the index when there is one and from a glob otherwise; shard numbers are never interpreted
(the released ones start at 0 with "of N-1"). The set of tensors must be exactly the one the configuration
calls for: a missing, extra, misshapen or mistyped tensor is an error before anything is computed.

Fine-tuned and merged copies may keep tensors in another float than bf16, and experts decoded instead of
packed; both are taken as they are stored, for packing or rounding them again would change the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from local_engine.config import Format, ModelConfig, read_config
from local_engine.errors import CheckpointError
from local_engine.tensors import DENSE_DTYPES, TensorSpec, dense_experts, stored_as, tensor_specs

PRESET_KEY = "douane.preset"
SEED_KEY = "douane.seed"
ADAPTER = "adapter_config.json"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""A safetensors file begins with the length of its header, little-endian, and that is at most this."""


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


class Source(Protocol):
    """Where tensors come from, under their names on disk."""

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor."""


class Shard:
    """One safetensors file. Its header is read at once, the file is mapped when a first tensor is asked for.

    Raises `CheckpointError` for a file that is cut short or no safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(LENGTH_BYTES), "little")
                if length > MAX_HEADER_BYTES:
                    raise ValueError("the header is too long")
                self._check_length(size, LENGTH_BYTES + length)
                header = json.loads(file.read(length))
            self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
            self.tensors = {
                name: (str(item["dtype"]), tuple(int(n) for n in item["shape"]))
                for name, item in header.items()
            }
            ends = [int(item["data_offsets"][1]) for item in header.values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"`{path}` cannot be read as safetensors: {error}") from None
        self._check_length(size, LENGTH_BYTES + length + max(ends, default=0))
        self._opened: Any = None

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, mapped. Raises `CheckpointError` when the file cannot be."""
        if self._opened is None:
            try:
                self._opened = safe_open(str(self.path), framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"`{self.path}` cannot be read as safetensors: {error}") from None
            except RuntimeError:
                # Linux refuses a private mapping that is larger than its memory, unless told otherwise.
                raise CheckpointError(
                    f"`{self.path}` is too large for this machine to map in one piece: take the form in "
                    "several files, or set `sysctl vm.overcommit_memory=1`"
                ) from None
        tensor: torch.Tensor = self._opened.get_tensor(name)
        return tensor

    def _check_length(self, size: int, wanted: int) -> None:
        if size < wanted:
            raise CheckpointError(f"`{self.path}` is cut short, {size} of {wanted} bytes: fetch it again")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint. Tensors are read when asked for, by their original names.

    `dense` holds the stems (`block.0.mlp.mlp1_weight`) of experts that are stored decoded.
    """

    path: Path
    config: ModelConfig
    format: Format
    origin: Origin
    dense: frozenset[str]
    _parts: Mapping[str, list[TensorSpec]]
    _sources: Mapping[str, Source]

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored: bf16 (f16 or f32 in some fine-tuned copies), or u8 for packed experts.

        Mapped, not copied, if it is whole on disk. Raises `KeyError` for a name the configuration does not
        call for, `CheckpointError` for the packed half of experts that are stored decoded: see `experts`.
        """
        parts = self.parts(name)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def parts(self, name: str) -> list[torch.Tensor]:
        """As `tensor`, but in the pieces that are on disk, rows in order, each mapped."""
        stem = name.removesuffix(".blocks").removesuffix(".scales")
        if stem in self.dense:
            raise CheckpointError(
                f"`{self.path}` stores `{stem}` decoded, not as blocks and scales: read it as experts"
            )
        return [self._sources[part.name].tensor(part.name) for part in self._parts[name]]

    def experts(self, layer: int, matrix: str) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
        """One layer's expert matrices as stored; `matrix` is `mlp1` or `mlp2`.

        Packed: blocks u8 [E, R, G, 16] and scales u8 [E, R, G]. Decoded: bf16 (or f16, f32) [E, R, C], a
        transposed view of the mapped tensor, so not contiguous. Raises `KeyError` for a layer that is not
        there.
        """
        stem = f"block.{layer}.mlp.{matrix}_weight"
        if stem not in self.dense:
            return self.tensor(f"{stem}.blocks"), self.tensor(f"{stem}.scales")
        (part,) = self._parts[stem]
        return self._sources[part.name].tensor(part.name).transpose(1, 2)

    @property
    def stored(self) -> list[TensorSpec]:
        """Every tensor as it is on disk, name, shape and dtype."""
        return [part for parts in self._parts.values() for part in parts]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for part in self.stored)

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
    _refuse_what_is_no_checkpoint(path)
    config, form = read_config(path / "config.json")
    shards: dict[str, Shard] = {}
    metadata: dict[str, str] = {}
    for shard in map(Shard, _weight_files(path)):
        metadata |= shard.metadata
        for name in shard.tensors:
            if name in shards:
                raise CheckpointError(
                    f"`{name}` is in more than one file: `{shards[name].path}` and `{shard.path}`; keep the "
                    "one that belongs"
                )
            shards[name] = shard
    parts = {spec.name: stored_as(spec, config, form) for spec in tensor_specs(config)}
    dense: set[str] = set()
    for stem, spec in dense_experts(config):
        if form == "hf" and spec.name in shards:
            del parts[f"{stem}.blocks"], parts[f"{stem}.scales"]
            parts[stem] = [spec]
            dense.add(stem)
    found = {name: [_checked(path, spec, shards) for spec in group] for name, group in parts.items()}
    extra = shards.keys() - {spec.name for group in found.values() for spec in group}
    if extra:
        raise CheckpointError(f"`{path}` holds a tensor no gpt-oss has: `{min(extra)}`")
    return Checkpoint(path, config, form, _origin(metadata), frozenset(dense), found, shards)


def _refuse_what_is_no_checkpoint(path: Path) -> None:
    """Says what a folder is that is often mistaken for a checkpoint."""
    if (path / ADAPTER).is_file():
        raise CheckpointError(
            f"`{path}` holds an adapter (`{ADAPTER}`), which this engine does not apply: merge it into its "
            f"base model with `{merge_command(path)}` and use the folder `merged`"
        )
    if (path / "config.json").is_file():
        return
    if (path / "original" / "config.json").is_file():
        raise CheckpointError(f"`{path}` holds the original format one level down: use `{path / 'original'}`")
    packed = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    if packed:
        raise CheckpointError(f"`{packed[0]}` is gguf: this engine reads `config.json` and `*.safetensors`")


def merge_command(adapter: Path | str) -> str:
    """The command that merges a LoRA adapter into its base model."""
    return (
        'python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained('{adapter}', dtype='bfloat16').merge_and_unload().save_pretrained('merged')\""
    )


def _weight_files(path: Path) -> list[Path]:
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if len(indexes) > 1:
        raise CheckpointError(f"`{path}` has more than one `*.safetensors.index.json`: keep one")
    if indexes:
        try:
            names = sorted(set(json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"].values()))
            found = [path / Path(name).name for name in names]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f"`{indexes[0]}` is no safetensors index: fetch it again") from None
        missing = [file.name for file in found if not file.is_file()]
        if missing:
            listed = ", ".join(f"`{name}`" for name in missing)
            raise CheckpointError(
                f"`{path}` lacks {len(missing)} of {len(found)} files that its index names: {listed}; fetch "
                "them"
            )
    else:
        found = sorted(path.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"`{path}` holds no `*.safetensors`: point at a checkpoint's own directory")
    return found


def _checked(path: Path, wanted: TensorSpec, shards: Mapping[str, Shard]) -> TensorSpec:
    """The spec as it is on disk. Raises `CheckpointError` unless that is what the configuration calls for."""
    if wanted.name not in shards:
        raise CheckpointError(f"`{path}` lacks the tensor `{wanted.name}`: fetch the checkpoint again")
    dtype, shape = shards[wanted.name].tensors[wanted.name]
    accepted = DENSE_DTYPES if wanted.dtype == "BF16" else (wanted.dtype,)
    if shape != wanted.shape or dtype not in accepted:
        raise CheckpointError(
            f"`{wanted.name}` is {dtype} {list(shape)}, but the configuration calls for "
            f"{wanted.dtype} {list(wanted.shape)}"
        )
    return replace(wanted, dtype=dtype)


def _origin(metadata: Mapping[str, str]) -> Origin:
    seed = metadata.get(SEED_KEY)
    return Origin(metadata.get(PRESET_KEY), int(seed) if seed is not None and seed.isdigit() else None)
