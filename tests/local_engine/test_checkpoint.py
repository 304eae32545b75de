"""Checkpoints of both formats hold the same tensors, are written in shards, and are checked when opened."""

from __future__ import annotations

import json
import queue
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from local_engine import mxfp4
from local_engine.checkpoint import Checkpoint, open_checkpoint
from local_engine.engine import Engine
from local_engine.errors import CheckpointError
from local_engine.inspection import inspect
from local_engine.make import SHARD_BYTES, cached_preset, make_checkpoint
from local_engine.opening import EngineOptions, open_engine
from local_engine.presets import PRESETS
from local_engine.sampling import SamplingParams
from local_engine.steps import Finished, Step, Token
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
            lambda t: t.update({SINKS: torch.zeros(4, dtype=torch.float64)}),
            f"`{SINKS}` is F64 [4], but the configuration calls for BF16 [4]",
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

    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(tmp_path)

    files = " and ".join(f"`{tmp_path / name}`" for name in ("a.safetensors", "b.safetensors"))
    assert f"is in more than one file: {files}; keep the one that belongs" in str(refusal.value)


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
    with pytest.raises(CheckpointError, match=r"lacks 1 of 1 files .*: `gone\.safetensors`"):
        open_checkpoint(tmp_path)
    index.write_text('{"weight_map": 3}')
    with pytest.raises(CheckpointError, match="is no safetensors index"):
        open_checkpoint(tmp_path)
    (tmp_path / "other.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="more than one"):
        open_checkpoint(tmp_path)


def test_all_shards_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    shards = [file for file in make_checkpoint(tmp_path, "tiny", shard_bytes=400_000) if "-of-" in file.name]
    for shard in shards[1:]:
        shard.unlink()

    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(tmp_path)

    names = ", ".join(f"`{shard.name}`" for shard in shards[1:])
    assert str(refusal.value) == (
        f"`{tmp_path}` lacks {len(shards) - 1} of {len(shards)} files that its index names: {names}; fetch "
        "them"
    )


@pytest.mark.parametrize("kept", [0.5, 0.001])
def test_a_file_that_is_cut_short_is_told_from_one_that_is_damaged(
    tiny: dict[str, Path], tmp_path: Path, kept: float
) -> None:
    shutil.copytree(tiny["hf"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(tmp_path)

    assert str(refusal.value).startswith(f"`{file}` is cut short, {int(len(data) * kept)} of ")
    assert str(refusal.value).endswith(" bytes: fetch it again")
    if kept == 0.5:
        assert f" of {len(data)} bytes" in str(refusal.value)


def fine_tuned(
    source: Path, folder: Path, dtype: torch.dtype = torch.bfloat16, *, dense: bool = True
) -> Checkpoint:
    """A checkpoint as a fine-tuning tool merges and stores it: another float, and experts decoded."""
    tensors = {name: x if x.dtype == torch.uint8 else x.to(dtype) for name, x in load_file(source).items()}
    for name in [name for name in tensors if dense and name.endswith("_proj_blocks")]:
        stem = name.removesuffix("_blocks")
        decoded = mxfp4.decode(tensors.pop(name), tensors.pop(f"{stem}_scales"), dtype)
        tensors[stem] = decoded.transpose(1, 2).contiguous()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((source.parent / "config.json").read_text())
    if dense:
        del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config | {"unsloth_version": "2025.9"}))
    return open_checkpoint(folder)


def test_experts_stored_decoded_are_given_as_matrices(tiny: dict[str, Path], tmp_path: Path) -> None:
    packed = open_checkpoint(tiny["hf"])
    dense = fine_tuned(tiny["hf"] / "model.safetensors", tmp_path)

    for matrix, shape in (("mlp1", (8, 192, 64)), ("mlp2", (8, 64, 96))):
        pair, decoded = packed.experts(3, matrix), dense.experts(3, matrix)
        assert isinstance(pair, tuple)
        assert isinstance(decoded, torch.Tensor)
        assert decoded.shape == shape
        assert torch.equal(decoded, mxfp4.decode(*pair, torch.bfloat16))
    assert (len(packed.dense), len(dense.dense)) == (0, 8)
    assert inspect(dense)["experts"] == "decoded, so about four times their packed size"
    assert inspect(dense)["stored_bytes"].keys() == {"BF16"}
    with pytest.raises(CheckpointError, match=r"stores `block\.0\.mlp\.mlp1_weight` decoded, not as blocks"):
        dense.tensor("block.0.mlp.mlp1_weight.scales")
    with pytest.raises(KeyError):
        dense.experts(4, "mlp1")


def test_both_kinds_of_experts_in_one_checkpoint_are_one_too_many(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    fine_tuned(tiny["hf"] / "model.safetensors", tmp_path)
    both = load_file(tmp_path / "model.safetensors") | load_file(tiny["hf"] / "model.safetensors")
    save_file(both, tmp_path / "model.safetensors")

    with pytest.raises(CheckpointError, match="a tensor no gpt-oss has: `model.layers.0.mlp.experts.down"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_stored_in_another_float_keep_their_values(
    tiny: dict[str, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    released = open_checkpoint(tiny["hf"])
    tuned = fine_tuned(tiny["hf"] / "model.safetensors", tmp_path, dtype, dense=False)

    for name in ("embedding.weight", "block.1.attn.qkv.weight", "block.0.attn.sinks"):
        assert tuned.tensor(name).dtype == dtype
        assert torch.equal(tuned.tensor(name), released.tensor(name).to(dtype))
    assert torch.equal(*(c.tensor("block.2.mlp.mlp2_weight.blocks") for c in (tuned, released)))


def test_a_model_with_decoded_experts_gives_the_logits_of_the_packed_one(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    checkpoints = (open_checkpoint(tiny["hf"]), fine_tuned(tiny["hf"] / "model.safetensors", tmp_path))
    options = EngineOptions(dtype="fp32", exact=True, max_running=1, max_context_tokens=64, kv_tokens=96)
    loaded: list[int] = []
    answers = [
        _greedy(open_engine(checkpoint, options, lambda _, count: loaded.append(count)))
        for checkpoint in checkpoints
    ]

    assert sum(loaded) == sum(checkpoint.nbytes for checkpoint in checkpoints)
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 4


def _greedy(engine: Engine) -> list[int]:
    steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
    params = SamplingParams(max_tokens=12, temperature=0.0, stop_tokens=frozenset())
    engine.start()
    try:
        engine.submit(list(range(20)), params, steps.put)
        taken = iter(steps.get, Finished(0, "length", 0))
        return [step.id for step in taken if isinstance(step, Token)]
    finally:
        engine.close()


def test_an_adapter_is_refused_with_the_command_that_merges_it(tiny: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny["hf"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(tmp_path)

    assert str(refusal.value) == (
        f"`{tmp_path}` holds an adapter (`adapter_config.json`), which this engine does not apply: merge it "
        "into "
        'its base model with `python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained('{tmp_path}', dtype='bfloat16').merge_and_unload().save_pretrained('merged')\"` "
        "and use the folder `merged`"
    )


def test_gguf_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "gpt-oss-20b.gguf").write_bytes(b"GGUF")

    for path in (tmp_path, tmp_path / "gpt-oss-20b.gguf"):
        with pytest.raises(CheckpointError, match=r"gpt-oss-20b\.gguf` is gguf: this engine reads"):
            open_checkpoint(path)


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


def test_the_demo_is_made_once_with_its_vocabulary_and_then_kept(tmp_path: Path) -> None:
    folder, made = cached_preset(tmp_path / "models", "demo")
    names = sorted(path.name for path in folder.iterdir())

    assert made
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert cached_preset(tmp_path / "models", "demo") == (folder, False)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [folder.name]


def test_a_preset_that_cannot_speak_gets_no_vocabulary(tiny: dict[str, Path]) -> None:
    assert sorted(path.name for path in tiny["hf"].iterdir()) == ["config.json", "model.safetensors"]
    vocabulary = inspect(open_checkpoint(tiny["hf"]))["vocabulary"]
    assert vocabulary == "none: 512 ids are not o200k_harmony, so it cannot speak"
