"""Kernels run in the interpreter here, which Triton is asked for before it is first imported."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"
