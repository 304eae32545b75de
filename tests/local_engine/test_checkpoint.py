"""Checkpoints of both formats hold the same tensors, are written in shards, and are checked when opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from local_engine.checkpoint import Checkpoint, open_checkpoint
from local_engine.errors import CheckpointError
from local_engine.inspection import inspect
from local_engine.make import SHARD_BYTES, make_checkpoint
from local_engine.presets import PRESETS
from local_engine.tensors import tensor_specs


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two checkpoints hold equal tensors under every name."""
    names = [spec.name for spec in tensor_specs(a.config)]
    return a.config == b.config and all(torch.equal(a.tensor(n), b.tensor(n)) for n in names)


def test_both_formats_load_to_identical_tensors(tiny: dict[str, Path]) -> None:
    hf, original = open_checkpoint(tiny["hf"]), open_checkpoint(tiny["original"])

    assert (hf.format, original.format) == ("hf", "original")
    assert same(hf, original)
    assert hf.nbytes == original.nbytes


def test_packed_experts_stay_packed(tiny: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(tiny["hf"])

    assert checkpoint.tensor("block.0.mlp.mlp1_weight.blocks").dtype == torch.uint8
    assert checkpoint.tensor("block.0.mlp.mlp1_weight.blocks").shape == (8, 192, 2, 16)


@pytest.mark.parametrize("form", ["hf", "original"])
def test_a_sharded_checkpoint_is_the_same_checkpoint(
    tiny: dict[str, Path], tmp_path: Path, form: str
) -> None:
    files = make_checkpoint(tmp_path, "tiny", form, seed=1, shard_bytes=100_000)  # type: ignore[arg-type]
    names = [file.name for file in files]

    assert names[0] == f"model-00001-of-{len(files) - 2:05}.safetensors"
    assert names[-2:] == ["model.safetensors.index.json", "config.json"]
    assert len(names) > 5
    assert sorted(names) == sorted(file.name for file in tmp_path.iterdir())
    assert same(open_checkpoint(tmp_path), open_checkpoint(tiny[form]))


def test_shards_numbered_from_zero_are_found_with_and_without_an_index(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    files = make_checkpoint(tmp_path, "tiny", seed=1, shard_bytes=400_000)
    shards = [file for file in files if file.suffix == ".safetensors"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    renamed = {
        shard.name: f"model-{n:05}-of-{len(shards) - 1:05}.safetensors" for n, shard in enumerate(shards)
    }
    for old, new in renamed.items():
        (tmp_path / old).rename(tmp_path / new)
    index["weight_map"] = {name: renamed[file] for name, file in index["weight_map"].items()}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    assert same(open_checkpoint(tmp_path), open_checkpoint(tiny["hf"]))
    (tmp_path / "model.safetensors.index.json").unlink()
    assert same(open_checkpoint(tmp_path), open_checkpoint(tiny["hf"]))


def test_another_seed_is_another_model(tiny: dict[str, Path], tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "tiny", "hf", seed=2)
    other, first = open_checkpoint(tmp_path), open_checkpoint(tiny["hf"])

    assert not torch.equal(other.tensor("embedding.weight"), first.tensor("embedding.weight"))


def test_a_made_checkpoint_says_that_it_is_random(tiny: dict[str, Path]) -> None:
    found = inspect(open_checkpoint(tiny["original"]))

    assert found["weights"] == "random: the right shape, no meaning"
    assert (found["preset"], found["seed"]) == ("tiny", 1)
    assert found["fingerprint"] == "douane-tiny-random"
    assert found["format"] == "original"
    assert found["released_shape"] is None


def test_a_foreign_checkpoint_is_known_by_its_files(tiny: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(tiny["hf"] / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny["hf"] / "config.json").read_text())
    found = inspect(open_checkpoint(tmp_path))

    assert found["weights"] == "from elsewhere"
    assert found["preset"] is None
    assert found["fingerprint"].startswith("douane-")
    assert "random" not in found["fingerprint"]


def _edit(
    tensors: dict[str, torch.Tensor], path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    change(tensors)
    save_file(tensors, path / "model.safetensors")


SINKS = "model.layers.0.self_attn.sinks"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(SINKS), f"lacks the tensor `{SINKS}`"),
        (lambda t: t.update({"model.extra": torch.zeros(1)}), "a tensor no gpt-oss has: `model.extra`"),
        (
            lambda t: t.update({SINKS: torch.zeros(5, dtype=torch.bfloat16)}),
            f"`{SINKS}` is BF16 [5], but the configuration calls for BF16 [4]",
        ),
        (
            lambda t: t.update({SINKS: torch.zeros(4)}),
            f"`{SINKS}` is F32 [4], but the configuration calls for BF16 [4]",
        ),
    ],
    ids=["missing", "extra", "misshapen", "mistyped"],
)
def test_a_tensor_that_is_wrong_is_named(
    tiny: dict[str, Path],
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    _edit(load_file(tiny["hf"] / "model.safetensors"), tmp_path, change)
    (tmp_path / "config.json").write_text((tiny["hf"] / "config.json").read_text())

    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(tmp_path)

    assert message in str(refusal.value)


def test_a_tensor_in_two_files_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(load_file(tiny["hf"] / "model.safetensors"), tmp_path / f"{name}.safetensors")
    (tmp_path / "config.json").write_text((tiny["hf"] / "config.json").read_text())

    with pytest.raises(CheckpointError, match="is in more than one file"):
        open_checkpoint(tmp_path)


def test_directories_that_are_no_checkpoint_are_refused_with_what_to_do(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    config = (tiny["hf"] / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"holds no `\*\.safetensors`: point at"):
        open_checkpoint(tmp_path)

    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        open_checkpoint(tmp_path)

    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "gone.safetensors"}}')
    with pytest.raises(CheckpointError, match="gone.safetensors` is missing"):
        open_checkpoint(tmp_path)
    index.write_text('{"weight_map": 3}')
    with pytest.raises(CheckpointError, match="is no safetensors index"):
        open_checkpoint(tmp_path)
    (tmp_path / "other.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="more than one"):
        open_checkpoint(tmp_path)


def test_pointing_one_level_too_high_is_told_where_to_point(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "original", "tiny", "original")

    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(tmp_path)

    assert f"use `{tmp_path / 'original'}`" in str(refusal.value)


@pytest.mark.parametrize(("preset", "gigabytes"), [("20b-shape", 13.761), ("120b-shape", 65.249)])
def test_the_big_shapes_have_the_size_of_the_released_models(preset: str, gigabytes: float) -> None:
    sizes = [spec.nbytes for spec in tensor_specs(PRESETS[preset].config)]

    assert round(sum(sizes) / 1e9, 3) == gigabytes
    assert max(sizes) < SHARD_BYTES


def test_nothing_is_written_over_and_unknown_presets_are_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        make_checkpoint(tiny["hf"], "tiny")
    with pytest.raises(CheckpointError, match="no preset `7b`: choose one of `demo`, `tiny`"):
        make_checkpoint(tmp_path, "7b")
