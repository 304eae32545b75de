"""A fresh machine gets exactly what was tested: the pins are complete, hashed, alike, and installed here."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+?))?(?: \\)?$")
O200K_BASE = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


def pins(name: str) -> dict[str, tuple[str, str, int]]:
    """Package -> version, marker, number of hashes, of one pin file."""
    found: dict[str, tuple[str, str, int]] = {}
    last = ""
    for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        if match := PIN.match(line):
            last = canonicalize_name(match["name"])
            assert last not in found, f"`{last}` is pinned twice"
            found[last] = (match["version"], match["marker"] or "", 0)
        elif line.strip().startswith("--hash=sha256:"):
            version, marker, hashes = found[last]
            found[last] = (version, marker, hashes + 1)
        else:
            assert line.startswith("#") or not line.strip(), f"{name}: `{line}` is neither a pin nor a hash"
    return found


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(x for extra in project["optional-dependencies"].values() for x in extra),
    ]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "cpu.txt", "triton-3.6.txt"])
def test_every_pin_has_hashes(name: str) -> None:
    assert [package for package, (_, _, hashes) in pins(name).items() if not hashes] == []


def test_what_is_tested_is_what_runs() -> None:
    run, dev = pins("run.txt"), pins("dev.txt")

    assert {package: dev.get(package) for package in run} == run


def test_torch_and_what_only_some_platforms_have_are_in_no_common_file() -> None:
    for name in ("run.txt", "dev.txt"):
        assert [p for p in pins(name) if p in ("torch", "triton") or p.startswith("nvidia")] == []
    assert list(pins("torch.txt")) == ["torch"]
    assert list(pins("cpu.txt")) == list(pins("triton-3.6.txt")) == ["triton"]


def test_what_torch_asks_for_is_pinned_before_torch_is_installed() -> None:
    asked = [Requirement(line) for line in metadata.requires("torch") or []]
    small = [r for r in asked if "extra" not in str(r.marker or "") and "platform" not in str(r.marker or "")]
    named = {canonicalize_name(r.name) for r in small if not r.name.startswith(("nvidia", "cuda", "triton"))}

    assert named - set(pins("run.txt")) == set()


def test_pins_satisfy_what_the_package_declares() -> None:
    # What only the extra `parquet` brings is large, and is installed for the tests alone.
    pinned = pins("dev.txt") | pins("run.txt") | pins("torch.txt") | pins("cpu.txt")

    for requirement in declared():
        version, _, _ = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_kernels_are_compiled_with_the_oldest_triton_that_is_allowed() -> None:
    (allowed,) = [r.specifier for r in declared() if r.name == "triton"]
    oldest = pins("triton-3.6.txt")["triton"][0]

    assert str(allowed) == f">={oldest.removesuffix('.0')}"


def test_both_tritons_are_installed_here_the_older_one_in_a_folder_of_its_own() -> None:
    for file, path in (("cpu.txt", sys.path), ("triton-3.6.txt", [str(Path(sys.prefix) / "triton-3.6")])):
        version, marker, _ = pins(file)["triton"]
        installed = [d.version.partition("+")[0] for d in metadata.distributions(name="triton", path=path)]

        assert installed == ([version] if Marker(marker).evaluate() else [])


def test_the_packages_installed_here_are_the_pinned_ones() -> None:
    wanted = {
        p: v for p, (v, marker, _) in pins("dev.txt").items() if not marker or Marker(marker).evaluate()
    }
    wanted["torch"] = pins("torch.txt")["torch"][0]

    assert {package: metadata.version(package).partition("+")[0] for package in wanted} == wanted


def test_the_pinned_litellm_carries_the_vocabulary_that_the_engine_reads() -> None:
    (vocabulary,) = [
        file
        for file in metadata.files("litellm") or []
        if file.match("litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790")
    ]

    assert hashlib.sha256(vocabulary.read_binary()).hexdigest() == O200K_BASE


def test_litellm_is_none_of_the_releases_that_stole_credentials() -> None:
    (declaration,) = [str(r.specifier) for r in declared() if r.name == "litellm"]

    assert declaration == f"=={pins('run.txt')['litellm'][0]}"
    assert declaration not in ("==1.82.7", "==1.82.8")
