"""Clients of boto3's for what is not inference: bounded, pinned to a region, never redirected."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config


def regional_client(
    session: boto3.Session, service: str, region: str, *, timeout_s: float, tries: int, **given: Any
) -> Any:
    """A client that asks the region's own endpoint, at most `tries` times with `timeout_s` for each step, and
    never through a proxy. `given` is more of botocore's configuration."""
    config = Config(
        region_name=region,
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        retries={"total_max_attempts": tries, "mode": "standard"},
        proxies={},
        ignore_configured_endpoint_urls=True,
        **given,
    )
    return session.client(service, region_name=region, config=config)
