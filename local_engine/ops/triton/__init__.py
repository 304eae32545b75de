"""gpt-oss's operations as Triton kernels, for one NVIDIA GPU."""

from __future__ import annotations

from local_engine.ops import Ops
from local_engine.ops.triton import attention, experts, head, out, qkv, router, sample

OPS = Ops(
    qkv=qkv.qkv,
    attend=attention.attend,
    out=out.out,
    route=router.route,
    experts=experts.experts,
    head=head.head,
    sample=sample.sample,
)
