"""The checkpoint that the tests of the whole share."""

from tests.integration.conftest import checkpoint

__all__ = ["checkpoint"]
