"""Tests of `local_engine.ops`."""
