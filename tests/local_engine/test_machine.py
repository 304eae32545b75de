"""What a machine has is what a container on it may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from local_engine.machine import Available, available, describe

KIB, GIB = 1 << 10, 1 << 30
MEMINFO = (
    f"MemTotal: {16 * GIB // KIB} kB\nMemFree: 1024 kB\nMemAvailable: {12 * GIB // KIB} "
    "kB\nHugePages_Total: 0\n"
)


def machine(root: Path, cgroup: str | None, files: dict[str, str] | None = None) -> Available | None:
    """What is available where `/proc` and `/sys/fs/cgroup` say this."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(MEMINFO)
    if cgroup is not None:
        (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, content in (files or {}).items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return available("cpu", proc=root / "proc", cgroups=root / "cgroup")


def test_without_a_limit_it_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/\n") == Available("cpu", 12 * GIB, 16 * GIB)


def test_without_control_groups_too(tmp_path: Path) -> None:
    assert machine(tmp_path, None) == Available("cpu", 12 * GIB, 16 * GIB)


def test_a_containers_limit_counts_and_its_file_cache_does_not(tmp_path: Path) -> None:
    files = {
        "memory.max": f"{4 * GIB}\n",
        "memory.current": f"{3 * GIB}\n",
        "memory.stat": f"anon 5\nactive_file {GIB}\ninactive_file {GIB}\n",
    }

    assert machine(tmp_path, "0::/\n", files) == Available("cpu", 3 * GIB, 4 * GIB)


def test_the_tightest_of_nested_limits_counts(tmp_path: Path) -> None:
    files = {
        "memory.max": "max\n",
        "memory.current": f"{9 * GIB}\n",
        "memory.stat": "anon 5\n",
        "a/memory.max": f"{8 * GIB}\n",
        "a/memory.current": f"{6 * GIB}\n",
        "a/memory.stat": "anon 5\n",
        "a/b/memory.max": f"{10 * GIB}\n",
        "a/b/memory.current": "0\n",
        "a/b/memory.stat": "anon 5\n",
    }

    assert machine(tmp_path, "0::/a/b\n", files) == Available("cpu", 2 * GIB, 8 * GIB)


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    files = {
        "memory/docker/x/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/docker/x/memory.usage_in_bytes": f"{GIB}\n",
        "memory/docker/x/memory.stat": f"inactive_file {GIB // 2}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": f"{GIB}\n",
        "memory/memory.stat": "cache 0\n",
    }
    cgroup = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x\n"

    assert machine(tmp_path, cgroup, files) == Available("cpu", GIB + GIB // 2, 2 * GIB)


def test_a_container_that_sees_its_hosts_path_reads_its_own_root(tmp_path: Path) -> None:
    files = {"memory.max": f"{GIB}\n", "memory.current": "0\n", "memory.stat": "anon 5\n"}

    assert machine(tmp_path, "0::/kubepods/pod1/x\n", files) == Available("cpu", GIB, GIB)


def test_a_system_that_does_not_say_is_unknown(tmp_path: Path) -> None:
    assert available("cpu", proc=tmp_path, cgroups=tmp_path) is None


def test_a_gpu_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 7))
    assert available("cuda") == Available("cuda", 5, 7)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available("cuda") is None


def test_a_machine_describes_what_numbers_were_measured_on() -> None:
    found = describe(torch.bfloat16, "cpu")

    assert found["cpu"]
    assert {key: found[key] for key in ("device", "threads", "torch", "dtype")} == {
        "device": "cpu",
        "threads": 1,
        "torch": torch.__version__,
        "dtype": "bfloat16",
    }
