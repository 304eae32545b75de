"""Tests of harmony rendering and parsing, against the openai_harmony library."""
