"""gpt-oss's operations as Triton kernels, for one NVIDIA GPU."""

from __future__ import annotations

from dataclasses import replace

from local_engine.ops import ref
from local_engine.ops.triton import attention, head, out, qkv

OPS = replace(ref.OPS, qkv=qkv.qkv, attend=attention.attend, out=out.out, head=head.head)
