"""Canaries run over parts of their own: all that these write down is searched afterwards."""

from __future__ import annotations

from tests.integration.conftest import checkpoint, policies

__all__ = ["checkpoint", "policies"]
