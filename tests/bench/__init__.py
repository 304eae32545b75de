"""Tests of the benches that are more than a loop and a clock."""
