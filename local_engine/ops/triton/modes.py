"""What every kernel is told of where and in what it computes."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from local_engine.errors import SetupError


def modes(x: torch.Tensor, *, weights: bool = False) -> dict[str, Any]:
    """Constexprs and options of a launch on x's device in x's dtype; `weights` for a kernel that decodes.

    A host's tensors mean the interpreter: no launch that overlaps the one before, no packed body. Raises
    `SetupError` for a dtype without kernels.
    """
    compute = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}.get(x.dtype)
    if compute is None:
        raise SetupError(f"the GPU's kernels compute in fp32 or bf16, not in {x.dtype}: use `--dtype bf16`")
    told: dict[str, Any] = {"COMPUTE": compute, "PDL": x.is_cuda}
    if weights:
        told["PACKED_BODY"] = x.is_cuda and x.dtype == torch.bfloat16
    return {**told, "launch_pdl": True} if x.is_cuda else told
