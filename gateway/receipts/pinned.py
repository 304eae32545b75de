"""The public keys that whoever checks a receipt has decided to believe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gateway.receipts.jwk import DEMO_PREFIX, PublicKey, from_base64url, unique_members
from gateway.receipts.keys import RECEIPTS, KeyUse, SigningKeyInvalid, read_public_pem

_FILE_BYTES_MAX: Final = 1 << 20


def _ed25519(text: str) -> str:
    if len(from_base64url(text)) != 32:
        raise ValueError("`x` is not 32 bytes")
    return text


class _Jwk(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: Annotated[str, AfterValidator(_ed25519)]
    kid: str
    use: Literal["sig"] = "sig"
    alg: Literal["EdDSA"] = "EdDSA"
    demo: bool = False


class _JwkSet(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    keys: Annotated[list[_Jwk], Field(min_length=1)]


def load_pinned(path: Path, use: KeyUse = RECEIPTS) -> Mapping[str, PublicKey]:
    """Thumbprint -> key, from a PEM public key, a JWK or a JWK set. Raises SigningKeyInvalid."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise SigningKeyInvalid(f"`{path}` cannot be read: {error.strerror}") from error
    keys = _from_json(text, path) if text.lstrip().startswith(b"{") else (read_public_pem(text, path, use),)
    return {key.thumbprint: key for key in keys}


def _from_json(text: bytes, path: Path) -> tuple[PublicKey, ...]:
    try:
        document = json.loads(text, object_pairs_hook=unique_members)
        jwks = _JwkSet.model_validate(document if "keys" in document else {"keys": [document]})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SigningKeyInvalid(
            f"`{path}` is not a set of Ed25519 public keys: `{where}`: {first['msg']}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SigningKeyInvalid(f"`{path}` is not a JWK set: {error}") from error
    keys = tuple(PublicKey(from_base64url(jwk.x), jwk.demo) for jwk in jwks.keys)
    for key, jwk in zip(keys, jwks.keys, strict=True):
        if jwk.kid != key.kid:
            hint = f"a demo key's begins with `{DEMO_PREFIX}`" if key.demo else "fetch the set again"
            raise SigningKeyInvalid(f"`{path}`: the `kid` of a key is not its own, `{key.kid}`; {hint}")
    return keys
