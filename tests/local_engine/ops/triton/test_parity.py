"""The kernels compute what transformers' GptOss computes, and the comparison can fail."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from local_engine.checkpoint import open_checkpoint
from local_engine.ops import Ops, cpu
from local_engine.ops.triton import OPS, choice, experts, grouped, qkv, router, swiglu
from tests.local_engine.batches import load, logits_of
from tests.local_engine.mutants import MUTANTS, Mutant
from tests.local_engine.test_parity import TOLERANCE, spoil, theirs, tokens

__all__ = ["theirs", "tokens"]  # fixtures

SHORT = 8
"""Tokens that show a mistake which has nothing to do with windows: no token hears later ones."""


@dataclass(frozen=True)
class Rewritten:
    """A mistake as a change to a module's text, and who uses the function in which it is."""

    module: ModuleType
    changes: Sequence[tuple[str, str]]
    function: str
    users: Sequence[ModuleType]

    def make(self, folder: Path, patch: pytest.MonkeyPatch) -> Any:
        """The spoilt function, which the users call from now on."""
        path = Path(str(self.module.__file__))
        text = path.read_text(encoding="utf-8")
        for old, new in self.changes:
            assert old in text, f"`{old}` is no longer in {path.name}"
            text = text.replace(old, new)
        spoilt = folder / path.name
        spoilt.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"spoilt_{path.stem}", spoilt)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, self.function)
        for user in self.users:
            patch.setattr(user, self.function, function)
        return function


def _swiglu(*changes: tuple[str, str]) -> Rewritten:
    return Rewritten(swiglu, changes, "swiglu", [experts, grouped])


REWRITTEN = {
    "pairs side by side": Rewritten(
        qkv,
        [
            ("n // PAIRS * (DIM // 2) + pair % (DIM // 2)", "n // PAIRS + pair % (DIM // 2) * 2"),
            ("head * DIM + d", "head * DIM + 2 * d"),
            ("(head - HEADS) * DIM + d", "(head - HEADS) * DIM + 2 * d"),
            ("place + HALF, behind", "place + 1, behind"),
        ],
        "qkv",
        [],
    ),
    "no clamp on the gate": _swiglu(("tl.minimum(gate, LIMIT)", "gate")),
    "no clamp on the linear half": _swiglu(
        ("tl.minimum(tl.maximum(linear, -LIMIT), LIMIT)", "linear"),
    ),
    "gate and linear in halves": _swiglu(
        ("[h.shape[0] // 2, 2, h.shape[1]]", "[2, h.shape[0] // 2, h.shape[1]]"),
        ("tl.trans(pairs, 0, 2, 1)", "tl.trans(pairs, 1, 2, 0)"),
    ),
    "gate and linear swapped": _swiglu(("gate, linear = tl.split", "linear, gate = tl.split")),
    "softmax over all experts": Rewritten(
        choice,
        [
            ("tl.where(chosen, scores, -1e38)", "tl.where(inside, scores, -1e38)"),
            ('tl.where(chosen, scores, float("-inf"))', 'tl.where(inside, scores, float("-inf"))'),
        ],
        "picked",
        [choice, router],
    ),
}
"""The mistakes in functions of the reference that kernels have for themselves."""

WINDOWED = {
    "rounded yarn bounds",
    "no yarn concentration",
    "yarn left out",
    "window one too long",
    "window one too short",
    "no window",
}
"""Mistakes that take more tokens than a window to see, or positions of some size."""

IN = {
    "qkv": {
        "pairs side by side", "rounded yarn bounds", "no yarn concentration", "yarn left out", "no qkv bias",
    },
    "attend": {
        "window one too long", "window one too short", "no window", "no sink", "scaled sink", "no out bias",
        "no residual around attention",
    },
}  # fmt: skip
"""Which kernels a mistake concerns: the router's and the experts' unless it is here."""


def partly(name: str) -> Ops:
    """The kernels that a mistake concerns, and the host's operations for the rest, which are quicker here."""
    if name in IN["qkv"]:
        return replace(cpu.OPS, qkv=OPS.qkv)
    if name in IN["attend"]:
        return replace(cpu.OPS, attend=OPS.attend, out=OPS.out)
    return replace(cpu.OPS, route=OPS.route, experts=OPS.experts)


def distance(path: Path, tokens: list[int], ops: Ops, theirs: torch.Tensor, mutant: Mutant) -> float:
    """The largest difference of a logit."""
    model = mutant.weights(load(open_checkpoint(path)))
    [logits] = logits_of(model, mutant.ops(ops), [tokens])
    return float((logits - theirs[: len(tokens)]).abs().max())


def test_every_logit_of_the_kernels_agrees_with_transformers(
    tiny: dict[str, Path], tokens: list[int], theirs: torch.Tensor
) -> None:
    assert distance(tiny["hf"], tokens, OPS, theirs, Mutant("none")) <= TOLERANCE


@pytest.mark.parametrize("name", ["no qkv bias", "no sink", "no mlp1 bias"])
def test_a_few_kernels_among_the_hosts_operations_agree_too(
    tiny: dict[str, Path], tokens: list[int], theirs: torch.Tensor, name: str
) -> None:
    assert distance(tiny["hf"], tokens[:SHORT], partly(name), theirs, Mutant("none")) <= TOLERANCE


@pytest.mark.proof
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_in_the_kernels_or_weights_exceeds_the_tolerance(
    tiny: dict[str, Path],
    tokens: list[int],
    theirs: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mutant: Mutant,
) -> None:
    ops = partly(mutant.name)
    if mutant.name in REWRITTEN:
        changed: Callable[..., Any] = REWRITTEN[mutant.name].make(tmp_path, monkeypatch)
        ops = replace(ops, qkv=changed) if mutant.name in IN["qkv"] else ops
    else:
        # The host's operations do not use what is spoilt here: only loading does.
        spoil(monkeypatch, mutant.maths)
    few = tokens if mutant.name in WINDOWED else tokens[:SHORT]

    assert distance(tiny["hf"], few, ops, theirs, mutant) > 10 * TOLERANCE
