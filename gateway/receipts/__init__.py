"""Receipts: what the gateway signs about one answer, and how a stranger checks it."""
