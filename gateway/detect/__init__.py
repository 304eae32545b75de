"""Detectors: what a request's own text says about what it carries. Deterministic, local, only ever added."""
