"""What this machine is and has: memory, as far as a container may use it, processor and devices."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Available:
    """Memory of a device in bytes: `free` may be taken now, `total` is what it has (or a container may
    use).
    """

    device: Device
    free_bytes: int
    total_bytes: int


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
    """(limit, in use without file cache) of this process's control group and those above it, either
    version.
    """
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
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
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


def describe(dtype: torch.dtype, device: Device) -> dict[str, Any]:
    """What numbers were measured on."""
    import torch

    return {
        "cpu": _cpu_model(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
