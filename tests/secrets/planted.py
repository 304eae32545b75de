"""Secrets that nothing else holds, planted wherever the gateway has one, and a search for their forms."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.receipts.jwk import base64url

SEED = bytes(range(101, 133))
MASTER = bytes(range(201, 233))


@dataclass(frozen=True, slots=True)
class Planted:
    """Each secret by its name. Texts have nothing in common, so that a finding names the leak."""

    api_key: str = "sk-planted-apikey-7f3a"
    redis_password: str = "planted/redis:password-9c1e"
    engine_secret: str = "planted-engine-secret-2b8d"
    server_secret: str = "planted-server-secret-4e6f"
    collector_token: str = "planted-collector-token-1d5c"
    aws_access_key: str = "AKIAPLANTEDPLANTED00"
    aws_secret_key: str = "planted+aws/secret+key+6a0b"
    aws_token: str = "planted-aws-session-token-8e2d"
    master: bytes = field(default=MASTER, repr=False)
    receipt_seed: bytes = field(default=SEED, repr=False)

    @property
    def redis_url(self) -> str:
        return f"redis://:{quote(self.redis_password, safe='')}@127.0.0.1"

    def all(self) -> dict[str, bytes]:
        texts = {name: getattr(self, name) for name in self.__slots__}
        return {name: one.encode() if isinstance(one, str) else one for name, one in texts.items()}

    def write_keys(self, state_dir: Path) -> None:
        """`master.key` and `receipt-key.pem`, as `douane init` would have made them."""
        state_dir.mkdir(parents=True)
        private = Ed25519PrivateKey.from_private_bytes(self.receipt_seed)
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for name, content in (("master.key", self.master), ("receipt-key.pem", pem)):
            (state_dir / name).write_bytes(content)
            (state_dir / name).chmod(0o600)

    def environ(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.aws_access_key,
            "AWS_SECRET_ACCESS_KEY": self.aws_secret_key,
            "AWS_SESSION_TOKEN": self.aws_token,
        }


PLANTED = Planted()


def forms(secret: bytes) -> dict[str, str]:
    """Every way in which a program may have written it down."""
    text = secret.decode("latin-1")
    return {
        "raw": text,
        "repr of bytes": repr(secret)[2:-1],
        "list of numbers": ", ".join(map(str, secret)),
        "hex": secret.hex(),
        "base64": base64.b64encode(secret).decode().rstrip("="),
        "base64url": base64url(secret),
        "url": quote(text, safe=""),
        "json": "".join(f"\\u{byte:04x}" for byte in secret),
    }


def found(text: str) -> list[str]:
    """The planted secrets that `text` shows, each with its form."""
    lowered = text.lower()
    return [
        f"{name} as {form}"
        for name, secret in PLANTED.all().items()
        for form, shown in forms(secret).items()
        if shown.lower() in lowered
    ]


def found_in(places: Mapping[str, Any]) -> dict[str, list[str]]:
    """By place, what it shows; places that show nothing are left out."""
    searched = {place: found(one if isinstance(one, str) else repr(one)) for place, one in places.items()}
    return {place: names for place, names in searched.items() if names}
