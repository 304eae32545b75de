"""What every launch is told: sizes, where and in what it computes, and how it follows the one before."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from local_engine.ops.triton.configs import Config


def modes(x: torch.Tensor, config: Config, *, weights: bool = False) -> dict[str, Any]:
    """Constexprs and options of a launch on x's device in x's dtype; `weights` for a kernel that decodes.

    A host's tensors mean the interpreter: no launch that overlaps the one before, no packed body. fp32 is to
    be compared with; its tiles are twice as large, so that none is copied ahead and no register is spared.
    """
    whole = x.dtype == torch.float32
    told = {"COMPUTE": tl.float32 if whole else tl.bfloat16, "PDL": x.is_cuda, **config.options}
    if weights:
        told["PACKED_BODY"] = x.is_cuda and not whole
    if whole:
        told |= {"num_stages": 1, "maxnreg": None}
    return {**told, "launch_pdl": True} if x.is_cuda else told
