"""Tests of the gateway's own modules, in their own process."""
