"""What each part of the engine pulls in, seen from a fresh process."""

from __future__ import annotations

import contextlib
import pkgutil
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.local_engine.ops import triton as kernels


def loaded_after(statement: str) -> set[str]:
    """Names of all modules in a new interpreter after a statement."""
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import local_engine.serve", {"gateway", "litellm", "transformers", "openai_harmony"}),
        (
            "import local_engine.harmony.render, local_engine.harmony.parse, local_engine.harmony.schema_ts",
            {"gateway", "torch", "tiktoken", "fastapi"},
        ),
        (
            "import local_engine.vocabulary as v; v.load_vocabulary()",
            {"gateway", "torch", "litellm", "fastapi"},
        ),
        ("import local_engine.wire, local_engine.prompt", {"gateway", "torch", "litellm"}),
        ("import local_engine.cli", {"gateway", "torch", "fastapi", "litellm", "huggingface_hub", "rich"}),
        ("import local_engine.hub", {"gateway", "fastapi", "litellm", "huggingface_hub"}),
        ("import local_engine.memory", {"gateway", "fastapi", "litellm", "tiktoken", "huggingface_hub"}),
        ("import local_engine", {"gateway", "torch", "click", "pydantic"}),
    ],
)
def test_a_part_of_the_engine_does_not_import_what_it_has_no_use_for(
    statement: str, absent: set[str]
) -> None:
    assert not loaded_after(statement) & absent


def packages(names: set[str]) -> set[str]:
    """The top-level packages beside the standard library."""
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def test_the_engines_core_needs_nothing_beside_torch_numpy_and_safetensors() -> None:
    core = packages(loaded_after("import local_engine.opening, local_engine.ops.exact, local_engine.mxfp4"))
    given = packages(loaded_after("import torch, numpy, safetensors.torch"))

    assert core - given == {"local_engine"}


BARE = ("torch", "triton", "numpy", "safetensors", "pytest")
"""What a machine with a GPU is sure to have, and what runs the tests there."""

CORE = (
    "local_engine.opening",
    "local_engine.presets",
    "local_engine.ops.exact",
    "local_engine.ops.triton",
    "bench.gpu",
    "bench.gpu_stage",
    "bench.gpu_machine",
    "bench.gpu_checks",
    "bench.gpu_engine",
    "bench.gpu_kernels",
    "tests.conftest",
    "tests.local_engine.conftest",
    "tests.local_engine.test_graphs",
    "tests.local_engine.test_model",
    "tests.local_engine.ops.test_capture",
    "tests.local_engine.ops.test_exact",
    "tests.local_engine.ops.test_ops",
    *(
        f"{kernels.__name__}.{module.name}"
        for module in pkgutil.iter_modules(kernels.__path__)
        if module.name != "test_parity"  # transformers is what it compares with
    ),
)

BLOCKING = """
import importlib, importlib.abc, sys

class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Bare())
for name in {names!r}:
    importlib.import_module(name)
"""


def absent() -> set[str]:
    """The packages here that a bare machine does not have: neither the named ones nor what they ask for."""
    brought: set[str] = set()
    left = list(BARE)
    while left:
        name = canonicalize_name(left.pop())
        if name not in brought:
            brought.add(name)
            with contextlib.suppress(metadata.PackageNotFoundError):
                asked = [Requirement(line) for line in metadata.requires(name) or []]
                left += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    holders = metadata.packages_distributions().items()
    others = {package for package, by in holders if not brought & {canonicalize_name(one) for one in by}}
    return others - {"local_engine"} | {"gateway"}


def test_the_core_the_gpus_bench_and_their_tests_load_where_nothing_else_is_installed() -> None:
    code = BLOCKING.format(absent=absent(), names=CORE)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_a_module_that_needs_more_does_not_load_there() -> None:
    code = BLOCKING.format(absent=absent(), names=("local_engine.cli",))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert {"transformers", "openai_harmony", "click", "fastapi", "pydantic", "tiktoken"} <= absent()
    assert "No module named 'click'" in done.stderr
