"""What a model needs and what there is are compared before anything is loaded, with the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from local_engine.checkpoint import open_checkpoint
from local_engine.errors import SetupError
from local_engine.footprint import CUDA_CONTEXT_BYTES, Needs, needs, size
from local_engine.graphs import sizes_up_to
from local_engine.machine import Available, Device
from local_engine.memory import (
    GRACE,
    Fit,
    check,
    fit,
    kv_blocks,
    kv_blocks_within,
    room_for_kv,
)
from local_engine.model import kv_block_bytes, load_model, new_kv
from local_engine.opening import EngineOptions, pool_blocks
from local_engine.presets import GPT_OSS_20B, PRESETS, TINY
from local_engine.scheduler import blocks_needed
from local_engine.tensors import tensor_specs
from tests.local_engine.batches import tensors_of

GIB = 1 << 30
BF16, FP32 = torch.bfloat16, torch.float32


def cpu(free_gib: float, total_gib: float = 64) -> Available:
    """A processor's memory."""
    return Available("cpu", int(free_gib * GIB), int(total_gib * GIB))


@pytest.mark.parametrize("preset", ["20b-shape", "120b-shape", "tiny"])
def test_weights_and_experts_in_bf16_are_the_checkpoints_bytes(preset: str) -> None:
    config = PRESETS[preset].config
    needed = needs(config, BF16, "cpu", full_blocks=0, window_blocks=0)

    assert needed.weights_bytes + needed.experts_bytes == sum(spec.nbytes for spec in tensor_specs(config))


def test_a_gpu_holds_everything_and_a_cpu_maps_what_it_need_not_copy() -> None:
    mapped = {
        (device, dtype): needs(GPT_OSS_20B, dtype, device, full_blocks=0, window_blocks=0)
        for device in ("cpu", "cuda")
        for dtype in (BF16, FP32)
    }  # type: dict[tuple[str, torch.dtype], Needs]

    assert mapped["cuda", BF16].mapped_bytes == mapped["cuda", FP32].mapped_bytes == 0
    assert mapped["cpu", FP32].mapped_bytes == mapped["cpu", FP32].experts_bytes
    assert mapped["cpu", BF16].mapped_bytes == (
        mapped["cpu", BF16].weights_bytes + mapped["cpu", BF16].experts_bytes
    )
    assert mapped["cpu", FP32].weights_bytes == 2 * mapped["cpu", BF16].weights_bytes


def test_decoded_experts_count_where_they_are_held() -> None:
    large = needs(GPT_OSS_20B, BF16, "cpu", full_blocks=0, window_blocks=0)
    small = needs(TINY, FP32, "cpu", full_blocks=0, window_blocks=0)
    dense = needs(GPT_OSS_20B, BF16, "cpu", full_blocks=0, window_blocks=0, dense_experts=True)

    assert large.decoded_bytes == 0
    assert small.decoded_bytes == 4 * 4 * 8 * 3 * 64 * 96
    assert (dense.experts_bytes, dense.decoded_bytes) == (2 * 24 * 32 * 3 * 2880 * 2880, 0)


def test_keys_and_values_of_a_token_of_the_20b_shape_take_24_kib() -> None:
    full, window = kv_block_bytes(GPT_OSS_20B, BF16)
    needed = needs(GPT_OSS_20B, BF16, "cuda", full_blocks=99, window_blocks=9)

    assert full == window == 16 * 24 << 10
    assert needed.kv_bytes == 100 * full + 10 * window


NEEDED = Needs(
    device="cpu",
    dtype="bfloat16",
    weights_bytes=3 * GIB,
    experts_bytes=9 * GIB,
    decoded_bytes=0,
    kv_bytes=2 * GIB,
    workspace_bytes=GIB // 2,
    mapped_bytes=11 * GIB,
)
SUM = "14.5 GiB (weights (bfloat16) 3.0 GiB + experts 9.0 GiB + kv pool 2.0 GiB + workspace 512.0 MiB)"


def test_enough_memory_is_not_worth_a_word_and_neither_is_an_unknown_amount() -> None:
    assert check(NEEDED, cpu(16)) is None
    assert check(NEEDED, None) is None


def test_mapped_weights_that_do_not_fit_are_warned_about_and_not_refused() -> None:
    assert check(NEEDED, cpu(8, 16)) == (
        f"this needs {SUM} of memory on `cpu`, but 8.0 GiB of 16.0 GiB are free: it runs, but 11.0 GiB of "
        "weights are mapped from their files, and what does not fit is read from disk again for every "
        "token; free some memory or take the smaller model"
    )


def test_what_cannot_live_is_refused_with_the_numbers_and_what_to_do() -> None:
    with pytest.raises(SetupError) as refusal:
        check(NEEDED, cpu(3, 16))

    assert str(refusal.value) == (
        f"this needs {SUM} of memory on `cpu`, but 3.0 GiB of 16.0 GiB are free: lower "
        "`--max-context-tokens` or `--kv-gib`, or take the smaller model; `--ignore-memory` tries all the "
        "same"
    )
    assert "starting anyway, as `--ignore-memory` says" in (check(NEEDED, cpu(3), ignore=True) or "")


def test_the_advice_fits_the_dtype_and_the_device() -> None:
    needed = needs(GPT_OSS_20B, FP32, "cuda", full_blocks=100, window_blocks=100)
    with pytest.raises(SetupError, match=r"or use `--dtype bf16`, or use `--device cpu`; `--ignore-memory`"):
        check(needed, Available("cuda", 8 * GIB, 16 * GIB))


@settings(max_examples=200, deadline=None)
@given(
    available=st.integers(0, 200 * GIB),
    running=st.integers(1, 64),
    context=st.integers(1, 131072),
    step=st.integers(64, 2048),
    dtype=st.sampled_from([BF16, FP32]),
)
def test_a_pool_stays_in_its_share_and_always_holds_one_whole_context(
    available: int, running: int, context: int, step: int, dtype: torch.dtype
) -> None:
    least, least_window = blocks_needed(context, step, 128)
    full_bytes, window_bytes = kv_block_bytes(GPT_OSS_20B, dtype)
    try:
        full, window = kv_blocks(GPT_OSS_20B, dtype, available, running, context, step_tokens=step)
    except SetupError:
        with pytest.raises(SetupError):
            kv_blocks_within(GPT_OSS_20B, dtype, available // 2, running, context, step_tokens=step)
        return

    assert (full + 1) * full_bytes + (window + 1) * window_bytes <= available // 2
    assert full >= least
    assert window >= least_window
    assert full <= max(running * blocks_needed(min(8192, context), step, 128)[0], least)
    options = EngineOptions(max_running=running, step_tokens=step, kv_tokens=full * 16)
    assert pool_blocks(options, GPT_OSS_20B, context) == (full, window)


def test_with_memory_to_spare_every_running_sequence_has_its_8192_tokens() -> None:
    full, window = kv_blocks(GPT_OSS_20B, BF16, 80 * GIB, 32, 131072)

    assert full == 32 * 513
    assert window == 2 * 32 * 10 + blocks_needed(131072, 256, 128)[1] + full // 4


def test_a_pool_named_by_its_size_is_filled() -> None:
    full, window = kv_blocks_within(GPT_OSS_20B, BF16, 8 * GIB, 4, 32768)
    each = 16 * 24 << 10

    assert 8 * GIB - 2 * each < (full + window + 2) * each <= 8 * GIB


def test_a_pool_too_small_for_one_context_says_how_many_tokens_fit() -> None:
    with pytest.raises(SetupError) as refusal:
        kv_blocks_within(GPT_OSS_20B, BF16, 2 * GIB, 1, 131072)
    message = str(refusal.value)
    fits = int(message.partition("lower `--max-context-tokens` to ")[2].partition(",")[0])

    assert message.startswith(
        "keys and values of 131072 tokens need 3.8 GiB, but 2.0 GiB are there for them: "
    )
    assert message.endswith(", or give more with `--kv-gib`")
    assert kv_blocks_within(GPT_OSS_20B, BF16, 2 * GIB, 1, fits)
    with pytest.raises(SetupError, match="are there for them: free some memory, or give more"):
        kv_blocks_within(GPT_OSS_20B, BF16, GIB // 1024, 1, 64)


def test_the_pool_is_made_from_what_everything_else_leaves() -> None:
    assert room_for_kv(NEEDED, cpu(20)) == int(20 * GIB * GRACE) - int(12.5 * GIB)
    # Ten GiB do not even hold the mapped weights: a quarter of what is not committed, the rest is page cache.
    assert room_for_kv(NEEDED, cpu(10)) == (int(10 * GIB * GRACE) - int(1.5 * GIB)) // 4
    assert room_for_kv(NEEDED, cpu(1)) == 0


def placed(
    free_gib: float | None,
    max_context_tokens: int | None = None,
    *,
    kv_bytes: int | None = None,
    ignore: bool = False,
) -> Fit:
    """The 20b shape in bf16 on a CPU, four sequences at once."""
    return fit(
        GPT_OSS_20B,
        BF16,
        "cpu",
        None if free_gib is None else cpu(free_gib),
        max_running=4,
        max_context_tokens=max_context_tokens,
        kv_bytes=kv_bytes,
        ignore=ignore,
    )


def test_a_large_machine_runs_the_whole_context_without_a_word() -> None:
    found = placed(48)

    assert (found.max_context_tokens, found.notes) == (131072, ())
    assert found.kv_tokens == found.full_blocks * 16 >= 131072
    assert found.needs.total_bytes <= 48 * GIB


def test_a_small_machine_gets_a_shorter_context_and_is_told() -> None:
    found = placed(16)

    assert found.max_context_tokens < 131072
    assert found.notes == (
        f"the context is {found.max_context_tokens} tokens of 131072: more keys and values do not fit in "
        "memory (`--max-context-tokens`, `--kv-gib`)",
    )
    assert found.needs.total_bytes <= 16 * GIB
    with pytest.raises(SetupError, match="keys and values of 131072 tokens need"):
        placed(16, 131072)


def test_a_machine_too_small_for_the_weights_still_runs_and_is_told() -> None:
    found = placed(8)

    assert found.needs.committed_bytes < 8 * GIB < found.needs.total_bytes
    assert "are mapped from their files" in found.notes[-1]


def test_a_machine_too_small_for_anything_is_refused_unless_told_otherwise() -> None:
    with pytest.raises(SetupError, match=r"this needs 12\.\d GiB .* but 32\.0 MiB of 64\.0 GiB are free"):
        placed(1 / 32)

    ignoring = placed(1 / 32, 4096, ignore=True)
    assert "starting anyway, as `--ignore-memory` says" in ignoring.notes[-1]
    assert ignoring.full_blocks == 257


def test_a_named_pool_is_what_is_checked() -> None:
    found = placed(48, kv_bytes=4 * GIB)

    assert found.needs.kv_bytes <= 4 * GIB < found.needs.kv_bytes + (2 << 20)
    with pytest.raises(SetupError, match="kv pool 40.0 GiB"):
        placed(24, kv_bytes=40 * GIB)


def test_where_the_system_does_not_say_what_it_has_a_moderate_pool_is_made() -> None:
    found = placed(None)

    assert found.notes == ()
    assert found.max_context_tokens == 131072
    assert found.needs.kv_bytes <= 4 * GIB


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (GIB, "1.0 GiB")],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert size(count) == text


def mapped_files() -> list[tuple[range, str]]:
    """The address ranges of this process that are files, and their names."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6:
            first, last = (int(address, 16) for address in fields[0].split("-"))
            found.append((range(first, last), fields[5]))
    return found


@pytest.mark.parametrize("form", ["hf", "original"])
@pytest.mark.parametrize("dense_int8", [False, True], ids=["dense as stored", "dense int8"])
@pytest.mark.parametrize("dtype", [BF16, FP32], ids=str)
def test_what_a_loaded_model_holds_is_what_was_predicted(
    tiny: dict[str, Path], form: str, dtype: torch.dtype, dense_int8: bool
) -> None:
    checkpoint = open_checkpoint(tiny[form])
    model = load_model(
        checkpoint, dtype, max_context_tokens=64, decoded_experts_bytes=0, dense_int8=dense_int8
    )
    kv = new_kv(model, 9, 5)
    needed = needs(
        TINY,
        dtype,
        "cpu",
        full_blocks=8,
        window_blocks=4,
        context_tokens=64,
        dense_int8=dense_int8,
        decoded_experts_bytes=0,
    )

    rope = [model.rope.cos, model.rope.sin]
    held = [tensor for tensor in tensors_of(model) if all(tensor is not other for other in rope)]
    files = [addresses for addresses, name in mapped_files() if name.startswith(str(checkpoint.path))]
    mapped = [tensor for tensor in held if any(tensor.data_ptr() in addresses for addresses in files)]
    # The norms are held in fp32, whatever the rest; biases of q, k and v are joined, which is as little.
    norms = [tensor for tensor in held if tensor.dtype == FP32] if dtype == BF16 else []
    joined = [layer.qkv_bias for layer in model.layers] if (form, dtype) == ("hf", BF16) else []
    small = bytes_of(norms) // 2 + bytes_of(joined)

    assert bytes_of(held) == needed.weights_bytes + needed.experts_bytes + bytes_of(norms) // 2
    assert bytes_of(mapped) == needed.mapped_bytes - small
    assert bytes_of(tensors_of(kv)) == needed.kv_bytes
    longer = needs(TINY, dtype, "cpu", full_blocks=8, window_blocks=4, context_tokens=128)
    assert bytes_of(rope) == longer.workspace_bytes - needed.workspace_bytes


def bytes_of(tensors: Sequence[torch.Tensor]) -> int:
    """All of them."""
    return sum(tensor.nbytes for tensor in tensors)


def test_pools_take_memory_as_they_are_written(tiny: dict[str, Path]) -> None:
    model = load_model(open_checkpoint(tiny["hf"]), BF16, max_context_tokens=64)
    before = anonymous_bytes()

    # Larger than what the C library takes from memory that it holds already.
    kv = new_kv(model, 10240, 10240)
    promised = anonymous_bytes()
    for layer in kv.layers:
        assert not layer.keys[0].any()
        layer.keys.fill_(1)
        layer.values.fill_(1)

    size_bytes = bytes_of(tensors_of(kv))
    assert size_bytes == 4 * 2 * 10240 * 16 * 2 * 64 * 2
    assert promised - before < size_bytes // 20
    assert anonymous_bytes() - before > size_bytes * 0.95


def anonymous_bytes() -> int:
    """What this process holds that is no file's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def test_rows_of_the_embedding_that_nobody_looks_up_are_not_resident() -> None:
    def idle(tokens: int, dtype: torch.dtype = BF16, device: Device = "cpu") -> int:
        return needs(GPT_OSS_20B, dtype, device, full_blocks=tokens // 16, window_blocks=0).idle_bytes

    table = 201088 * 2880 * 2

    assert idle(0) == table
    assert table - idle(16) == pytest.approx(
        16 * 1.09 * 65536, rel=0.01
    )  # 64 KiB around each, some on a border
    assert 0.1 * table < idle(32768) < 0.2 * table
    assert idle(131072) < table // 1000
    assert idle(0, FP32) == idle(0, device="cuda") == 0


def test_plain_operations_need_room_for_what_they_copy() -> None:
    lean, eager = (
        needs(GPT_OSS_20B, BF16, "cpu", full_blocks=0, window_blocks=0, context_tokens=131072, eager=eager)
        for eager in (False, True)
    )

    gathered = 2 * 131072 * 8 * 64 * 2
    assert eager.workspace_bytes - lean.workspace_bytes > gathered
    assert eager.mapped_bytes == lean.mapped_bytes


def test_recorded_steps_count_as_memory_on_a_gpu() -> None:
    def workspace(device: Device, running: int) -> int:
        found = needs(GPT_OSS_20B, BF16, device, full_blocks=1, window_blocks=1, max_running=running)
        return found.workspace_bytes

    few, many = (workspace("cuda", running) - workspace("cpu", running) for running in (1, 64))
    logits = sum(sizes_up_to(64)) * 201_088 * 4

    assert few >= CUDA_CONTEXT_BYTES
    assert logits < many - few < 4 * logits
