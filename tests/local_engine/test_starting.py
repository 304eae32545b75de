"""What suits a device where the command line does not say."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from local_engine.scheduler import Limits
from local_engine.starting import Running


def test_a_gpu_has_more_at_once_and_longer_steps_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = Running(
        dtype="bf16",
        device="auto",
        dense=None,
        kernels="compiled",
        exact=False,
        max_context_tokens=None,
        kv_gib=None,
        step_tokens=None,
        threads=None,
        ignore_memory=False,
    )
    asked = (
        running,
        running.at_once(None),
        running.at_once(200),
        replace(running, step_tokens=64).at_once(None),
    )
    on_host = [one.limits() for one in asked]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    on_gpu = [one.limits() for one in asked]

    assert on_host == [Limits(1, 256), Limits(16, 256), Limits(200, 256), Limits(16, 64)]
    assert on_gpu == [Limits(1, 2048), Limits(64, 2048), Limits(200, 2048), Limits(64, 64)]
    with pytest.raises(click.UsageError, match="--step-tokens must be at least 64"):
        replace(running, step_tokens=63).at_once(None)
