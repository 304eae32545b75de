"""What each part of the engine pulls in, seen from a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest


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


def test_the_engines_core_needs_nothing_beside_torch_numpy_and_safetensors() -> None:
    def packages(statement: str) -> set[str]:
        return {name.partition(".")[0] for name in loaded_after(statement)} - sys.stdlib_module_names

    core = packages("import local_engine.opening, local_engine.ops.exact, local_engine.mxfp4")

    assert core - packages("import torch, numpy, safetensors.torch") == {"local_engine"}
