"""What the packages import is what pyproject.toml asks for, so that an installation of its own works."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OURS = {"gateway", "local_engine", "tests", "bench"}


def imported(package: str) -> dict[str, str]:
    """Top-level third-party module -> a file that imports it, wherever in the file that stands."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], path.relative_to(ROOT).as_posix())
    return {name: file for name, file in found.items() if name not in OURS | set(sys.stdlib_module_names)}


def declared(*extras: str) -> set[str]:
    """Canonical names of the distributions that the base installation and these extras ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(x for e in extras for x in project["optional-dependencies"][e])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def undeclared(package: str, *extras: str) -> list[str]:
    """Imports of a package that no declared distribution provides."""
    providers = metadata.packages_distributions()
    asked = declared(*extras)
    return [
        f"{file} imports `{name}`: add {providers.get(name, ['its distribution'])[0]} to pyproject.toml"
        for name, file in imported(package).items()
        if not asked & {canonicalize_name(d) for d in providers.get(name, [])}
    ]


# What an extra brings, and the one module that may need it, inside the function that does.
OF_EXTRAS = {"pyarrow": "gateway/audit/parquet.py"}


def test_the_gateway_imports_only_what_a_base_installation_brings() -> None:
    assert [said for said in undeclared("gateway") if not said.startswith(tuple(OF_EXTRAS.values()))] == []


def test_what_an_extra_brings_is_imported_by_one_module_and_declared() -> None:
    assert undeclared("gateway", "parquet") == []
    for name, module in OF_EXTRAS.items():
        users = [path for path in (ROOT / "gateway").rglob("*.py") if f"import {name}" in path.read_text()]
        assert [path.relative_to(ROOT).as_posix() for path in users] == [module]
        assert f"\nimport {name}" not in (ROOT / module).read_text(), "at import, the base lacks it"


def test_the_engine_imports_only_what_its_extra_brings() -> None:
    assert undeclared("local_engine", "engine") == []


def test_nothing_is_asked_for_that_no_module_needs() -> None:
    providers = metadata.packages_distributions()
    used = {name for package in ("gateway", "local_engine") for name in imported(package)}
    needed = {canonicalize_name(d) for name in used for d in providers.get(name, [])}
    # litellm is read by path; torch and safetensors share memory through numpy; uvicorn loads the rest.
    implied = {"litellm", "numpy", "httptools", "uvloop"}

    assert declared("engine") - needed - implied == set()
