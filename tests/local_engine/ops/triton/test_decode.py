"""Every byte under every scale is what the engine's own decoder says, to the bit."""

from __future__ import annotations

import pytest
import torch

from local_engine import mxfp4
from local_engine.ops.triton.decode import every_value


@pytest.mark.filterwarnings("ignore:.*encountered in multiply:RuntimeWarning")  # 6 x 2^127, and 0 x inf
def test_every_byte_under_every_scale_is_decoded_exactly() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    blocks = every.view(16, 16).expand(256, 16, 16)
    scales = every[:, None].expand(256, 16)

    found = every_value("cpu", torch.float32)

    assert torch.equal(found.view(torch.int32), mxfp4.decode(blocks, scales, torch.float32).view(torch.int32))
