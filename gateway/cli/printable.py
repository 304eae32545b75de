"""Text for a terminal: what comes from a file that somebody may have forged must not steer it."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every control and other unprintable character spelled out, such as `\\x1b`."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
