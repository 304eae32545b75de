"""How much memory a model needs, how much there is, and how many blocks of keys and values to make of the rest.

All sums are pure; `available` alone looks at the machine. On a CPU the weights that keep their stored dtype
are mapped, not copied: the kernel may drop and read them again, so what does not fit is slow, not impossible.
That is why only the rest is refused when it does not fit, and mapped weights are warned about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from local_engine.config import ModelConfig
from local_engine.errors import SetupError
from local_engine.tensors import tensor_specs

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]

BLOCK_TOKENS = 16
DECODED_EXPERTS_BYTES = 256 << 20
"""Experts no larger than this once decoded are decoded when the model is loaded."""

CONTEXT_TOKENS = 8192
"""What the default pool has room for in each running sequence; longer ones borrow from the others."""

CUDA_CONTEXT_BYTES = 512 << 20
"""What CUDA itself and its libraries take before anything is allocated."""

GRACE = 0.95
"""The share of the free memory that is counted on; other processes breathe too."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes by purpose. `mapped_bytes` of the weights and experts are only page cache."""

    device: Device
    dtype: str
    weights_bytes: int
    experts_bytes: int
    decoded_bytes: int
    kv_bytes: int
    workspace_bytes: int
    mapped_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything, mapped or not: what must fit for full speed."""
        weights = self.weights_bytes + self.experts_bytes + self.decoded_bytes
        return weights + self.kv_bytes + self.workspace_bytes

    @property
    def committed_bytes(self) -> int:
        """What must fit for the process to live."""
        return self.total_bytes - self.mapped_bytes

    def describe(self) -> str:
        """The sum with its terms, for a person."""
        terms = {
            f"weights ({self.dtype})": self.weights_bytes,
            "experts": self.experts_bytes,
            "decoded experts": self.decoded_bytes,
            "kv pool": self.kv_bytes,
            "workspace": self.workspace_bytes,
        }
        listed = " + ".join(f"{name} {size(value)}" for name, value in terms.items() if value)
        return f"{size(self.total_bytes)} ({listed})"


@dataclass(frozen=True, slots=True)
class Available:
    """Memory of a device in bytes: `free` may be taken now, `total` is what it has (or a container may use)."""

    device: Device
    free_bytes: int
    total_bytes: int


def needs(
    config: ModelConfig,
    dtype: torch.dtype,
    device: Device,
    *,
    full_blocks: int,
    window_blocks: int,
    max_running: int = 1,
    step_tokens: int = 512,
    dense_experts: bool = False,
    decoded_experts_bytes: int = DECODED_EXPERTS_BYTES,
) -> Needs:
    """What running a model takes. `dense_experts`: the checkpoint stores them decoded, in bf16.

    An estimate for the workspace (activations of the largest step, logits and sampling state of every running
    sequence, the rope table), exact for the rest.
    """
    specs = list(tensor_specs(config))
    values = sum(math.prod(spec.shape) for spec in specs if spec.dtype == "BF16")
    packed = sum(spec.nbytes for spec in specs if spec.dtype == "U8")
    expert_values = _expert_values(config)
    experts = expert_values * dtype.itemsize if dense_experts else packed
    decoded = 0 if dense_experts else expert_values * dtype.itemsize
    weights = values * dtype.itemsize
    mapped = 0
    if device == "cpu":
        stored_as_is = dtype.itemsize == 2
        # The Hugging Face form keeps q, k and v apart, and joining them copies.
        joined = config.num_hidden_layers * config.qkv_rows * (config.hidden_size + 1) * dtype.itemsize
        mapped += weights - joined if stored_as_is else 0
        mapped += experts if stored_as_is or not dense_experts else 0
    full, window = block_bytes(config, dtype)
    return Needs(
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        weights_bytes=weights,
        experts_bytes=experts,
        decoded_bytes=decoded if decoded <= decoded_experts_bytes else 0,
        kv_bytes=full_blocks * full + window_blocks * window,
        workspace_bytes=_workspace_bytes(config, dtype, device, max_running, step_tokens),
        mapped_bytes=mapped,
    )


def check(needed: Needs, there: Available | None, *, ignore: bool = False) -> str | None:
    """Compares; returns a warning when it will run, but slowly. None for `there` (unknown) passes.

    Raises `SetupError` with the numbers and what to do when it cannot run; `ignore` turns that into a warning.
    """
    if there is None or needed.total_bytes <= there.free_bytes * GRACE:
        return None
    numbers = (
        f"this needs {needed.describe()} of memory on `{needed.device}`, but {size(there.free_bytes)} of "
        f"{size(there.total_bytes)} are free"
    )
    if needed.committed_bytes <= there.free_bytes * GRACE:
        return (
            f"{numbers}: it runs, but {size(needed.mapped_bytes)} of weights are mapped from their files, and what "
            "does not fit is read from disk again for every token; free some memory or take the smaller model"
        )
    if ignore:
        return f"{numbers}: starting anyway, as `--ignore-memory` says"
    advice = ["lower `--max-context-tokens` or `--kv-gib`", "take the smaller model"]
    if needed.dtype == "float32":
        advice.append("use `--dtype bf16`")
    if needed.device == "cuda":
        advice.append("use `--device cpu`")
    raise SetupError(f"{numbers}: {', or '.join(advice)}; `--ignore-memory` tries all the same")


def room_for_kv(needed: Needs, there: Available) -> int:
    """Bytes that a pool may be made from: what everything else leaves of the free memory.

    When mapped weights alone do not fit, half of what is not committed: some of it must stay page cache.
    """
    free = int(there.free_bytes * GRACE)
    others = needed.total_bytes - needed.kv_bytes
    committed = needed.committed_bytes - needed.kv_bytes
    return max(free - others, (free - committed) // 2, 0)


def block_bytes(config: ModelConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of one block of 16 tokens in the full and in the window group: keys and values of its layers."""
    layer = BLOCK_TOKENS * 2 * config.kv_rows * dtype.itemsize
    full = config.num_hidden_layers // 2
    return full * layer, (config.num_hidden_layers - full) * layer


def kv_blocks(
    config: ModelConfig,
    dtype: torch.dtype,
    available_bytes: int,
    max_running: int,
    max_context_tokens: int,
    *,
    step_tokens: int = 512,
    share: float = 0.5,
) -> tuple[int, int]:
    """The default pool: (blocks of the full group, blocks of the window group), scratch blocks included.

    Room for `max_running` sequences of 8,192 tokens, and for one of `max_context_tokens`, but no more than
    `share` of `available_bytes`, which is what weights and workspace leave. Raises `SetupError` when that does not
    hold one whole context: what a request may ask for must be possible.
    """
    each = min(CONTEXT_TOKENS, max_context_tokens)
    wanted = max(max_running * _blocks(each), _blocks(max_context_tokens)) + 1
    full, window = block_bytes(config, dtype)
    enough = wanted * full + _window_blocks(config, max_running, step_tokens) * window
    return kv_blocks_within(
        config,
        dtype,
        min(enough, int(available_bytes * share)),
        max_running,
        max_context_tokens,
        step_tokens=step_tokens,
    )


def kv_blocks_within(
    config: ModelConfig,
    dtype: torch.dtype,
    kv_bytes: int,
    max_running: int,
    max_context_tokens: int,
    *,
    step_tokens: int = 512,
) -> tuple[int, int]:
    """The largest pool of at most `kv_bytes` (`--kv-gib`), as `kv_blocks` returns it.

    The window group gets what all running sequences can hold, twice, so that the tails of finished prompts stay
    for a prefix to hit; when that is over a quarter of the pool, just what they can hold. Raises `SetupError`.
    """
    full, window = block_bytes(config, dtype)
    windows = _window_blocks(config, max_running, step_tokens)
    if windows * window > kv_bytes // 4:
        windows = _window_blocks(config, max_running, step_tokens, spare=1)
    blocks = max(0, kv_bytes - windows * window) // full
    least = _blocks(max_context_tokens) + 1
    if blocks < least:
        wanted = least * full + windows * window
        fits = max(0, blocks - 1) * BLOCK_TOKENS
        advice = f"lower `--max-context-tokens` to {fits}" if fits else "run fewer sequences at once"
        raise SetupError(
            f"keys and values of {max_context_tokens} tokens need {size(wanted)}, but {size(kv_bytes)} are there "
            f"for them: {advice}, or give more with `--kv-gib`"
        )
    return blocks, windows


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def _window_blocks(config: ModelConfig, max_running: int, step_tokens: int, spare: int = 2) -> int:
    """What running sequences hold in the window group, `spare` times, the tokens of one step, and scratch.

    A window that begins inside a block touches one block more than it fills.
    """
    each = _blocks(config.sliding_window) + 1
    return spare * max_running * each + _blocks(step_tokens) + 1


def _expert_values(config: ModelConfig) -> int:
    each = 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * config.num_experts * each


def _workspace_bytes(
    config: ModelConfig, dtype: torch.dtype, device: Device, max_running: int, step_tokens: int
) -> int:
    c = config
    # Of a step: the stream and its norm, q, k and v, and what the chosen experts see and make.
    row = 2 * c.hidden_size + c.qkv_rows + c.q_rows
    row += c.experts_per_token * (3 * c.intermediate_size + 2 * c.hidden_size)
    activations = step_tokens * row * 4
    # Of a sequence: logits, two copies at work in sampling, counts of penalties, the mask.
    sampling = max_running * c.vocab_size * 4 * 4
    rope = c.max_context_tokens * c.head_dim * 4
    expert = 2 * c.intermediate_size * c.hidden_size * dtype.itemsize * 2
    return activations + sampling + rope + expert + (CUDA_CONTEXT_BYTES if device == "cuda" else 0)


def available(
    device: Device, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> Available | None:
    """What a device has now; None when this system does not say, or has no such device."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return None
        free, total = torch.cuda.mem_get_info()
        return Available(device, free, total)
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    free, total = sizes["MemAvailable"], sizes["MemTotal"]
    for limit, used in _cgroup_limits(proc, cgroups):
        free, total = min(free, max(0, limit - used)), min(total, limit)
    return Available(device, free, total)


def _cgroup_limits(proc: Path, cgroups: Path) -> list[tuple[int, int]]:
    """(limit, in use without file cache) of this process's control group and those above it, either version."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups if not controllers else cgroups / "memory"
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        group = root / path.lstrip("/")
        # Inside a container the path may be the host's, which is not mounted there: its root is ours.
        while root in (group, *group.parents):
            if (pair := _limit(group, *names)) is not None:
                found.append(pair)
            group = group.parent
    return found


def _limit(group: Path, limit: str, usage: str) -> tuple[int, int] | None:
    try:
        allowed = (group / limit).read_text(encoding="ascii").strip()
        used = int((group / usage).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    if not allowed.isdigit():
        return None
    cache = sum(int(stat.get(name, 0)) for name in ("active_file", "inactive_file"))
    return int(allowed), max(0, used - cache)


def size(count: int) -> str:
    """Bytes for a person."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} B"
