"""Keys and signatures for the tests, and what admits a bundle as a gateway would, without proving claims."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.policy.live import Admission
from gateway.policy.serials import NoSerials, Serials
from gateway.policy.signatures import Statement, sign
from gateway.policy.source.directory import Files
from gateway.policy.trust import Trust
from gateway.receipts.jwk import PublicKey
from gateway.receipts.signer import SigningKey
from tests.policy.bundles import default_files

SIGNED_AT = "2026-11-30T12:00:00Z"
NO_CLOUD = {  # what the default bundle's own examples do not bear
    "residency/50-new.yaml": b"- id: no-cloud\n  basis: x\n  forbid: [infer]\n"
    b"  when: {operator_under: us-cloud-act}\n"
}


@cache
def key(name: str) -> SigningKey:
    """The signing key of somebody; the same in every test."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    return SigningKey(private, PublicKey(private.public_key().public_bytes_raw(), demo=False))


ANN, BOB, EVE = key("ann"), key("bob"), key("eve")


def trust(*keys: SigningKey, needed: int = 1) -> Trust:
    return Trust({one.public.thumbprint: one.public for one in keys}, needed)


def signature(files: Files, by: SigningKey, serial: int = 1) -> bytes:
    return sign(Statement(files.revision, serial, SIGNED_AT), by).encode() + b"\n"


def signed(files: Files, *by: SigningKey, serial: int = 1) -> Files:
    """The same files with a signature by each key, as `douane policy sign` writes them."""
    signatures = {f"signatures/{one.kid}.jws": signature(files, one, serial) for one in by}
    return Files(files.content, signatures)


def bundle(serial: int = 1, more: Mapping[str, bytes] | None = None) -> Files:
    """The default bundle with this serial, and with `more` files."""
    content = default_files()
    line = b"serial: 1 "
    assert content["bundle.yaml"].count(line) == 1
    content["bundle.yaml"] = content["bundle.yaml"].replace(line, f"serial: {serial} ".encode())
    return Files({**content, **(more or {})})


def light(serial: int = 1) -> Files:
    """The same without promises, which a start would prove for a second, and with one example."""
    content = {
        name: text
        for name, text in bundle(serial).content.items()
        if name != "claims.yaml" and not name.startswith("tests/")
    }
    content["tests/one.yaml"] = (
        b"- name: the engine answers\n  request: {tenant: demo, model: gpt-oss-20b}\n"
        b"  expect: {infer: {permitted: [local-engine]}}\n"
    )
    return Files(content)


def write(files: Files, directory: Path) -> Path:
    """Writes bundle and signatures, in the place of what is there."""
    for old in sorted(directory.rglob("*"), reverse=True):
        old.rmdir() if old.is_dir() and not old.is_symlink() else old.unlink()
    for name, content in {**files.content, **files.signatures}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def admission(trusted: Trust, serials: Serials | None = None) -> Admission:
    return Admission(trusted, serials or NoSerials(), lambda *_: (), lambda bundle: bundle)


def pem(of: SigningKey, path: Path) -> Path:
    path.write_bytes(of.public.pem())
    return path


def jwk(of: SigningKey, path: Path) -> Path:
    path.write_text(json.dumps(of.public.jwk()))
    return path
