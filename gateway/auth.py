"""From an API key to a caller: the bundle knows only hashes of keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from gateway.errors import Unauthenticated
from gateway.facts import Caller
from gateway.policy.bundle import Bundle


def authenticate(authorization: str | None, bundle: Bundle, demo_keys: Mapping[str, str]) -> Caller:
    """The caller that holds the key of an `Authorization: Bearer …` header.

    Keys are random, so one SHA-256 is enough to store them by, and looking one up by its hash tells a
    guesser nothing about how close a guess was. `demo_keys` maps hashes of keys made at run time to tenants.
    Raises `Unauthenticated`.
    """
    if not authorization:
        raise Unauthenticated("no API key was sent; send it as `Authorization: Bearer KEY`")
    hashed = key_hash(authorization)
    if hashed is None:
        raise Unauthenticated(
            "the `Authorization` header is not of the form `Bearer KEY`; send your API key so"
        )
    caller = bundle.caller(hashed)
    if caller is None and hashed in demo_keys:
        caller = bundle.tenant_caller(demo_keys[hashed], "demo-key")
    if caller is None:
        raise Unauthenticated("the API key is not known here; ask the operator of this gateway for one")
    return caller


def key_hash(authorization: str) -> str | None:
    """The SHA-256 of a header's key, None for one of another form: a frame of its own, which is gone with the
    key before anything can fail."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return None
    return hashlib.sha256(key.strip().encode()).hexdigest()
