"""The files of signing keys: one private key that signs, and public ones that stay published after it.

A line before the PEM marks a demo key; from there the mark is in its `kid`, its JWK and every receipt.
"""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.hidden import HiddenBytes
from gateway.keys.wrapping import Unwrappable, WrappingUnavailable
from gateway.receipts.jwk import DEMO_LINE, PublicKey
from gateway.receipts.signer import ReceiptSigner, SigningKey

_KEY_FILE_BYTES_MAX: Final = 16 * 1024
LOCKED_LINE: Final = b"# douane key, locked by kms\n"  # base64 of what KMS made of the PEM file follows
LOCKED_NAME: Final = "receipt-key"  # in the encryption context, wherever the file lies


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What keys are for, and the commands that make them and show their public halves."""

    signed: str
    new: str
    public: str


RECEIPTS: Final = KeyUse("receipts", "douane receipt new-key", "douane receipt public-key")


class SigningKeyInvalid(Exception):
    """A key file that cannot be used; the text says why and how to fix it, and holds nothing of the key."""


class KeyLock(Protocol):
    """What a key file is locked with while it rests: `gateway.keys.kms`."""

    def lock(self, name: str, content: bytes) -> bytes: ...

    def unlock(self, name: str, locked: bytes) -> bytes: ...


def create_key(path: Path, *, demo: bool = False, lock: KeyLock | None = None) -> SigningKey:
    """Makes a key and its file, with mode 0600 from the first byte on; locked, where there is a `lock`.

    Raises SigningKeyInvalid.
    """
    private = Ed25519PrivateKey.generate()
    pem = HiddenBytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = HiddenBytes(DEMO_LINE + pem) if demo else pem
        write_new(path, content if lock is None else _locked(content, lock), 0o600)
    except FileExistsError as error:
        raise SigningKeyInvalid(
            f"`{path}` exists already; a key is never overwritten, name another file"
        ) from error
    except OSError as error:
        raise SigningKeyInvalid(f"`{path}` cannot be written: {error.strerror}") from error
    return SigningKey(private, PublicKey(private.public_key().public_bytes_raw(), demo))


def write_new(path: Path, content: bytes, mode: int) -> None:
    """A file that was not there before, on the disk when this returns; `mode` is its from the first byte on.

    Raises OSError, also at a symlink.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load_signing_key(path: Path, use: KeyUse = RECEIPTS, lock: KeyLock | None = None) -> SigningKey:
    """Reads a private key (PEM, PKCS#8, not encrypted, or locked by `lock`) whose file only its owner can
    reach. Raises SigningKeyInvalid.
    """
    text = _read_private_file(path, use)
    if text.startswith(LOCKED_LINE):
        text = _unlocked(text, path, lock)
    make_one = f"make one with `{use.new} PATH`"
    try:
        private = serialization.load_pem_private_key(text, password=None)
    except TypeError as error:
        raise SigningKeyInvalid(
            f"`{path}` is protected by a passphrase; store it without one, mode 0600"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyInvalid(f"`{path}` holds no private key in PEM form; {make_one}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SigningKeyInvalid(f"`{path}` is not an Ed25519 key; {make_one}")
    return SigningKey(private, PublicKey(private.public_key().public_bytes_raw(), _is_demo(text)))


def read_public_pem(text: bytes, path: Path, use: KeyUse = RECEIPTS) -> PublicKey:
    """The public key in a PEM file's bytes. Raises SigningKeyInvalid, also for a private key."""
    if b"PRIVATE KEY" in text:
        raise SigningKeyInvalid(f"`{path}` is a private key; give the public one (`{use.public} PATH`)")
    try:
        public = serialization.load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyInvalid(f"`{path}` holds no public key in PEM form") from error
    if not isinstance(public, Ed25519PublicKey):
        raise SigningKeyInvalid(f"`{path}` is not an Ed25519 key; {use.signed} are signed with Ed25519 only")
    return PublicKey(public.public_bytes_raw(), _is_demo(text))


def load_retired(directory: Path) -> tuple[PublicKey, ...]:
    """The public keys (`*.pem`) of a directory that signed earlier receipts; none when it is not there.

    They are published as the gateway's own, so none but its user may put one there.
    Raises SigningKeyInvalid at a file that is no public Ed25519 key, or that others can write.
    """
    if not directory.is_dir():
        return ()
    try:
        files = sorted(directory.glob("*.pem"))
        for path in (directory, *files):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o022:
                raise SigningKeyInvalid(
                    f"`{path}` has mode {mode:04o}, so others could have a key of theirs published; "
                    f"run `chmod go-w {path}`, and look whether each key there is yours"
                )
        return tuple(read_public_pem(path.read_bytes(), path) for path in files)
    except OSError as error:
        raise SigningKeyInvalid(f"`{error.filename}` cannot be read: {error.strerror}") from error


def load_signer(path: Path, retired: Path, lock: KeyLock | None = None) -> ReceiptSigner:
    """A signer with the key in `path`, publishing also the retired keys in the directory `retired`.

    Raises SigningKeyInvalid.
    """
    return ReceiptSigner(load_signing_key(path, lock=lock), load_retired(retired))


def is_locked(path: Path) -> bool:
    """Whether the key in the file is locked. Raises SigningKeyInvalid."""
    return _read_private_file(path, RECEIPTS).startswith(LOCKED_LINE)


def _locked(content: bytes, lock: KeyLock) -> bytes:
    try:
        return LOCKED_LINE + base64.b64encode(lock.lock(LOCKED_NAME, content)) + b"\n"
    except WrappingUnavailable as error:
        raise SigningKeyInvalid(str(error)) from error


def _unlocked(text: bytes, path: Path, lock: KeyLock | None) -> bytes:
    if lock is None:
        raise SigningKeyInvalid(
            f"`{path}` is locked by a key of kms; set DOUANE_KMS_KEY_ID and DOUANE_KMS_REGION"
        )
    try:
        locked = base64.b64decode(text.removeprefix(LOCKED_LINE))
        return lock.unlock(LOCKED_NAME, locked)
    except (Unwrappable, WrappingUnavailable, ValueError) as error:
        raise SigningKeyInvalid(f"`{path}` cannot be unlocked: {error}") from error


def _read_private_file(path: Path, use: KeyUse) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not block us
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SigningKeyInvalid(f"`{path}` is not a regular file; make one with `{use.new} PATH`")
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o177:
                raise SigningKeyInvalid(
                    f"`{path}` has mode {mode:04o}, so others may have read the key; "
                    f"run `chmod 600 {path}`, or make a new key if they could"
                )
            return HiddenBytes(os.read(descriptor, _KEY_FILE_BYTES_MAX))
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise SigningKeyInvalid(f"there is no key file `{path}`; make one with `{use.new} {path}`") from error
    except OSError as error:
        raise SigningKeyInvalid(f"`{path}` cannot be read: {error.strerror}") from error


def _is_demo(text: bytes) -> bool:
    return text.startswith(DEMO_LINE)
