"""Douane's gateway: decides where a request may go, sends it there, and signs a receipt of where it was made."""

__version__ = "0.1.0"
