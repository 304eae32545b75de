"""The wheel holds what the gateway needs at run time, and works where the source tree is not."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "gateway",
    "local_engine",
    "policies",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "THIRD_PARTY_NOTICES.md",
)
MADE = shutil.ignore_patterns("__pycache__", "*.pyc")


def in_tree(folder: str) -> set[str]:
    """Files below a folder of the source tree, relative to it, less what Python makes."""
    below = (ROOT / folder).rglob("*")
    return {
        p.relative_to(ROOT / folder).as_posix() for p in below if p.is_file() and "__pycache__" not in p.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built, without reaching for the network, from a copy of the tree that is then removed."""
    source = tmp_path_factory.mktemp("source")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=MADE)
        else:
            shutil.copy(ROOT / name, source / name)
    built = tmp_path_factory.mktemp("built")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "-q", "-w", str(built)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    shutil.rmtree(source)
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "-q", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return target


def run_installed(installed: Path, *command: str) -> str:
    """What a program of the installed copy prints, started away from the source tree."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_both_packages_with_their_data_and_the_default_policies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    expected = {f"gateway/{name}" for name in in_tree("gateway")}
    expected |= {f"local_engine/{name}" for name in in_tree("local_engine")}
    expected |= {f"gateway/default_policies/{name}" for name in in_tree("policies")}
    assert held == expected
    assert {"gateway/py.typed", "local_engine/py.typed", "gateway/default_policies/bundle.yaml"} <= held
    assert any(name.endswith(".lua") for name in held)


def test_the_wheel_carries_its_licence_and_the_notices(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        licences = {Path(n).name: archive.read(n) for n in archive.namelist() if "/licenses/" in n}

    assert licences == {name: (ROOT / name).read_bytes() for name in ("LICENSE", "THIRD_PARTY_NOTICES.md")}


def test_a_gateway_alone_asks_for_no_torch_and_for_one_release_of_litellm_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())

    requires = metadata.get_all("Requires-Dist") or []
    always = [line for line in requires if "extra ==" not in line]
    assert [line for line in always if line.startswith(("torch", "triton", "safetensors", "numpy"))] == []
    assert [line.split("==")[0] for line in always if line.startswith("litellm")] == ["litellm"]
    assert "torch>=2.11; extra == 'engine'" in requires
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_command_is_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt")]
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(name).decode())

    assert dict(entries["console_scripts"]) == {"douane": "gateway.cli.main:main"}


def test_the_installed_command_explains_itself_where_the_source_tree_is_not(installed: Path) -> None:
    where = run_installed(installed, sys.executable, "-c", "import gateway; print(gateway.__file__)")
    printed = run_installed(installed, str(installed / "bin" / "douane"), "--help")

    assert Path(where.strip()) == installed / "gateway" / "__init__.py"
    for command in ("serve", "demo", "policy", "audit", "receipt"):
        assert command in printed


def test_the_installed_default_policies_are_those_of_the_tree(installed: Path) -> None:
    copied = installed / "gateway" / "default_policies"

    assert {name: (copied / name).read_bytes() for name in in_tree("policies")} == {
        name: (ROOT / "policies" / name).read_bytes() for name in in_tree("policies")
    }
