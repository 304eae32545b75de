"""Kernels run here on the host, under triton's interpreter; compiled ones are a matter of other processes."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def interpreter() -> None:
    """Fails every test of this folder where triton was imported before it was told to interpret."""
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    # A function of triton's own library: it is what it became when triton was imported.
    if isinstance(tl.cdiv, JITFunction):
        pytest.fail("triton was imported without TRITON_INTERPRET=1: run these tests in their own process")
