"""Secrets as texts and bytes that work as any other, but whose `repr` does not tell them.

That is what a traceback with variables, a debugger, a mapping or a dataclass shows. Whoever formats or
decodes one says so in the code, and gets the secret itself.
"""

from __future__ import annotations

from pydantic import SecretStr

MASK = "…"


class Hidden(str):
    """A text such as an API key or a password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


class HiddenBytes(bytes):
    """Bytes such as a key, or a header that carries one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"b{MASK!r}"


def told(secret: SecretStr) -> Hidden:
    """A setting's secret, to be used."""
    return Hidden(secret.get_secret_value())
