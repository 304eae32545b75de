"""Which package may load which: checked in fresh interpreters, over every module there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# `python -m` files run on import by design; the litellm backend is imported only where it is configured.
NOT_IMPORTED = ("__main__",)
LOADED = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def modules(package: str) -> list[str]:
    """Dotted names of every module below a package of the tree."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in paths]
    return [name for name in names if not name.endswith(NOT_IMPORTED)]


def loaded_by(names: list[str]) -> set[str]:
    """Top-level packages in memory after the modules have been imported, in an interpreter of their own."""
    command = [sys.executable, "-W", "error::ImportWarning", "-c", LOADED, json.dumps(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("package", ["torch", "triton", "litellm", "local_engine", "transformers", "tests"])
def test_no_module_of_the_gateway_loads(package: str, loaded_by_the_gateway: set[str]) -> None:
    assert "gateway" in loaded_by_the_gateway
    assert package not in loaded_by_the_gateway


@pytest.fixture(scope="module")
def loaded_by_the_gateway() -> set[str]:
    """What importing every module of the gateway brings in."""
    return loaded_by(modules("gateway"))


def test_no_module_of_the_engine_loads_the_gateway_or_litellm() -> None:
    loaded = loaded_by(modules("local_engine"))

    assert {"local_engine", "torch"} <= loaded
    assert loaded & {"gateway", "litellm", "transformers", "tests"} == set()


def test_importing_a_package_prints_nothing_and_starts_nothing() -> None:
    names = [*modules("gateway"), *modules("local_engine")]
    program = (
        "import importlib, sys, threading\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "sys.stdout.write(repr([t.name for t in threading.enumerate()]))\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "['MainThread']", "")
