"""Changing the key that signs: the old one's public half is kept published, then a new one takes its place.

The order is what makes a crash harmless: at each moment there is one whole key that signs, and whatever it
has signed can be checked with a key that is published. What a crash leaves over, the next rotation clears.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.receipts.keys import (
    KeyLock,
    SigningKeyInvalid,
    create_key,
    is_locked,
    load_retired,
    load_signing_key,
    write_new,
)
from gateway.whole_files import sync_directory

RECEIPT_KEY: Final = "receipt-key.pem"
RETIRED_KEYS: Final = "retired-keys"
_NEXT: Final = ".next"


@dataclass(frozen=True, slots=True)
class Rotated:
    """The ids of the key that signed until now and of the one that signs from now on, and where the public
    half of the first is."""

    before: str
    after: str
    retired: Path


def rotate_key(state_dir: Path, lock: KeyLock | None = None) -> Rotated:
    """Makes a new signing key in `state_dir`; a demo key is followed by a demo key, a locked one by one that
    is locked by `lock`.

    Raises SigningKeyInvalid when the keys there cannot be used, or another rotation is under way; the key in
    use is then the one that it was.
    """
    path, retired = state_dir / RECEIPT_KEY, state_dir / RETIRED_KEYS
    if path.is_symlink():
        raise SigningKeyInvalid(
            f"`{path}` is a symlink, so something else looks after the key; rotate it there, "
            f"and put the old public key into `{retired}`"
        )
    try:
        with one_at_a_time(state_dir):
            old = load_signing_key(path, lock=lock)
            relocked = lock if is_locked(path) else None
            load_retired(retired)  # one that cannot be used would keep the gateway from taking the new key
            kept = retired / f"key-{old.kid}.pem"
            retired.mkdir(mode=0o755, exist_ok=True)
            place(kept, old.public.pem())
            following = state_dir / (RECEIPT_KEY + _NEXT)
            following.unlink(missing_ok=True)  # of a rotation that was cut off
            new = create_key(following, demo=old.demo, lock=relocked)
            following.replace(path)
            sync_directory(state_dir)
    except OSError as error:
        raise SigningKeyInvalid(
            f"`{error.filename or state_dir}` cannot be written: {error.strerror}"
        ) from error
    return Rotated(old.kid, new.kid, kept)


def place(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all. Raises OSError."""
    draft = path.with_suffix(".draft")  # not `*.pem`: nobody reads it
    draft.unlink(missing_ok=True)
    write_new(draft, content, 0o644)
    draft.replace(path)
    sync_directory(path.parent)
    sync_directory(path.parent.parent)  # the directory may be new


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Holds a lock on `directory`, which ends with the process. Raises OSError, or SigningKeyInvalid when
    another holds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SigningKeyInvalid(
                f"another rotation in `{directory}` is under way; wait until it has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)
