"""Files that hold a secret are read only while nobody but their owner can reach them.

Symlinks are followed, because Kubernetes and systemd hand secrets over through them: what counts is the file
at their end, looked at once it is open.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from gateway.hidden import HiddenBytes

OTHERS: Final = 0o077
SECRET_BYTES_MAX: Final = 64 * 1024


class SecretFileInvalid(Exception):
    """A file with a secret that is not to be read; the text says why and how to fix it."""


def read_secret_file(path: Path) -> bytes:
    """The file's content. Raises SecretFileInvalid, and OSError for one that cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not block us
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretFileInvalid(f"`{path}` is not a regular file; name one")
        require_own(path, status.st_mode)
        return HiddenBytes(os.read(descriptor, SECRET_BYTES_MAX))
    finally:
        os.close(descriptor)


def require_own(path: Path, mode: int) -> None:
    """Raises SecretFileInvalid unless the group and others have no rights at all."""
    mode = stat.S_IMODE(mode)
    if mode & OTHERS:
        raise SecretFileInvalid(
            f"`{path}` holds a secret and has mode {mode:04o}, so others may have read it; "
            f"run `chmod 600 {path}`, or change the secret if they could"
        )
