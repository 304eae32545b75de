"""The script behind every make target: fast when nothing changed, clear when it cannot go on."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.packaging.scripts import ROOT, script


@pytest.fixture
def install() -> ModuleType:
    """A fresh copy of the script."""
    return script("requirements/install.py")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, install: ModuleType, tmp_path: Path) -> list[str]:
    """The kinds that main() had installed, into an environment under tmp_path, by a stand-in for pip."""
    kinds: list[str] = []

    def install_nothing(kind: str, venv: Path) -> None:
        venv.mkdir(exist_ok=True)
        kinds.append(kind)

    monkeypatch.setattr(install, "install", install_nothing)
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    return kinds


def call(install: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """main() with a command line; its exit status."""
    monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
    status = install.main()
    assert isinstance(status, int)
    return status


def test_a_second_call_installs_nothing(
    install: ModuleType, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = [call(install, monkeypatch, "run"), call(install, monkeypatch, "run")]

    assert (statuses, asked) == ([0, 0], ["run"])


def test_an_environment_for_development_serves_a_run_too_but_not_the_other_way_round(
    install: ModuleType, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("run", "dev", "run", "dev"):
        assert call(install, monkeypatch, kind) == 0

    assert asked == ["run", "dev"]


DECIDING = [f"requirements/{name}.txt" for name in ("run", "torch", "cpu", "triton-3.6")] + ["pyproject.toml"]


@pytest.mark.parametrize("changed", DECIDING)
def test_a_changed_pin_is_noticed_by_content_and_not_by_time(
    install: ModuleType, asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    tree = tmp_path / "tree"
    for name in DECIDING:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    (tree / "requirements/install.py").write_text("")
    monkeypatch.setattr(install, "ROOT", tree)

    call(install, monkeypatch, "run")
    (tree / changed).touch()
    call(install, monkeypatch, "run")
    (tree / changed).write_text((tree / changed).read_text() + "# moved\n")
    call(install, monkeypatch, "run")

    assert asked == ["run", "run"]


@pytest.mark.parametrize(
    ("kind", "accelerated", "expected"),
    [
        ("run", False, ["run.txt", "torch.txt"]),
        ("dev", False, ["dev.txt", "torch.txt", "cpu.txt", "triton-3.6.txt"]),
        ("dev", True, ["dev.txt", "torch.txt", "triton-3.6.txt"]),
    ],
)
def test_triton_is_for_development_and_left_to_a_torch_that_brings_its_own(
    install: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    accelerated: bool,
    expected: list[str],
) -> None:
    calls: list[tuple[str, ...]] = []
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    monkeypatch.setattr(install, "pip", lambda python, *arguments: calls.append(arguments))
    monkeypatch.setattr(install, "torch_brings_triton", lambda python: accelerated)

    install.install(kind, tmp_path)

    files = [call[-1].removeprefix("requirements/") for call in calls if "-r" in call]
    targets = [call[call.index("--target") + 1] for call in calls if "--target" in call]
    assert files == expected
    assert targets == ([str(tmp_path / "triton-3.6")] if kind == "dev" else [])
    assert all("--require-hashes" in call for call in calls if "-r" in call and call[-1] != install.TORCH)


def test_the_torch_of_this_environment_is_asked_whether_it_brings_triton(install: ModuleType) -> None:
    import torch

    brings = install.torch_brings_triton(Path(sys.executable))

    assert brings == bool(torch.version.cuda or torch.version.hip)


def test_an_installation_that_fails_leaves_no_stamp_and_says_which_command_failed(
    install: ModuleType,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    call(install, monkeypatch, "run")
    stamp = tmp_path / "venv" / ".installed-run"
    stamp.write_text("of another time")

    def fail(kind: str, venv: Path) -> None:
        raise subprocess.CalledProcessError(1, ["python", "-m", "pip", "install"])

    monkeypatch.setattr(install, "install", fail)

    assert call(install, monkeypatch, "run") == 1
    assert not stamp.exists()
    assert "`python -m pip install` exited 1" in capsys.readouterr().err


def test_a_python_that_is_too_old_is_told_so_with_what_to_do(
    install: ModuleType,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(install, "OLDEST_PYTHON", (99, 0))

    assert call(install, monkeypatch, "run") == 1
    assert f"`{sys.executable}` is Python 3." in (said := capsys.readouterr().err)
    assert "make PYTHON=python3.11" in said
    assert asked == []


def test_a_python_without_venv_is_told_which_package_brings_it(
    install: ModuleType,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert call(install, monkeypatch, "run") == 1
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in capsys.readouterr().err
    assert asked == []


def test_the_script_can_be_read_by_a_python_that_is_too_old() -> None:
    source = (ROOT / "requirements/install.py").read_text(encoding="utf-8")

    assert ast.parse(source, feature_version=(3, 7)).body
