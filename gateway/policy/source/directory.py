"""Reads a bundle directory into bytes, all of one moment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.policy.problems import PolicyInvalid, Problem, did_you_mean

REQUIRED: Final = ("bundle.yaml", "zones.yaml", "places.yaml", "tenants.yaml", "routes.yaml")
OPTIONAL: Final = ("claims.yaml", "detectors.yaml")
FOLDERS: Final = ("residency", "tests")
FILE_BYTES_MAX: Final = 1 << 20
FILES_MAX: Final = 500
READS_MAX: Final = 5

Stamp = tuple[tuple[str, str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Files:
    """The bytes of every file of a bundle, by path inside it, and the hash over them."""

    content: Mapping[str, bytes]

    @property
    def revision(self) -> str:
        """`sha256:` and the hash over names and bytes, each with its length in front."""
        digest = hashlib.sha256()
        for name in sorted(self.content):
            for part in (name.encode(), self.content[name]):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
        return f"sha256:{digest.hexdigest()}"

    def of_folder(self, folder: str) -> tuple[str, ...]:
        """The names of the files in a folder, sorted: this is the order of the rules."""
        return tuple(sorted(name for name in self.content if name.startswith(f"{folder}/")))


def read_directory(directory: Path) -> Files:
    """Every file of the bundle in `directory`. Raises PolicyInvalid.

    The directory may be a symlink, or hold symlinks, that another process swaps at any moment: what is read
    counts only if the same files were there before and after, else it is read again.
    """
    for _ in range(READS_MAX):
        try:
            root = directory.resolve(strict=True)
            before = stamp(root)
            content = {name: read_file(root / name, name) for name, *_ in before}
            after = stamp(root)
        except NotADirectoryError:
            raise refused(
                ".", f"`{directory}` is not a directory", "name the directory of the bundle"
            ) from None
        except FileNotFoundError:
            if not directory.exists():
                raise refused(
                    ".", f"there is no directory `{directory}`", "name the directory of the bundle"
                ) from None
            continue
        except PermissionError as error:
            name = Path(error.filename or ".").name
            raise refused(name, "the file cannot be read", "give the process the right to read it") from None
        if before == after:
            check_names(tuple(content))
            return Files(content)
    raise refused(
        ".",
        f"the directory changed during each of {READS_MAX} readings",
        "write a bundle aside, then swap it in",
    )


def stamp(root: Path) -> Stamp:
    """What identifies every file at this moment: its name, the file it leads to, and that file's state."""
    found = []
    for folder in (root, *(root / name for name in FOLDERS)):
        if folder is not root and not folder.is_dir():
            continue
        for entry in sorted(os.listdir(folder)):
            path = folder / entry
            name = path.relative_to(root).as_posix()
            if entry.startswith(".") or (folder is root and entry in {*FOLDERS, "schema", "README.md"}):
                continue
            if path.is_dir():
                raise refused(name, f"unknown folder `{name}`", did_you_mean(entry, FOLDERS))
            target = path.resolve(strict=True)
            state = target.stat()
            found.append((name, str(target), state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size))
            if len(found) > FILES_MAX:
                raise refused(".", f"more than {FILES_MAX} files", "join some of them")
    return tuple(found)


def read_file(path: Path, name: str) -> bytes:
    """The bytes of one file, at most `FILE_BYTES_MAX`."""
    with path.open("rb") as stream:
        content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise refused(name, f"the file is larger than {FILE_BYTES_MAX} bytes", "split it")
    return content


def check_names(names: tuple[str, ...]) -> None:
    """Raises PolicyInvalid for a file that is missing or that nothing would read."""
    problems = [
        Problem(name, 0, None, f"`{name}` is missing", "every bundle has one; see docs/policies.md")
        for name in REQUIRED
        if name not in names
    ]
    problems += [
        Problem(f"{folder}/", 0, None, f"`{folder}/` has no file", f"add one such as `{folder}/main.yaml`")
        for folder in FOLDERS
        if not any(name.startswith(f"{folder}/") for name in names)
    ]
    for name in names:
        if "/" not in name and name not in (*REQUIRED, *OPTIONAL):
            hint = did_you_mean(name, (*REQUIRED, *OPTIONAL))
            problems.append(Problem(name, 0, None, f"unknown file `{name}`", hint))
        elif "/" in name and not name.endswith(".yaml"):
            problems.append(Problem(name, 0, None, f"unknown file `{name}`", "its name must end in `.yaml`"))
    if problems:
        raise PolicyInvalid(problems)


def refused(name: str, message: str, hint: str) -> PolicyInvalid:
    """A single problem with a file as a whole."""
    return PolicyInvalid([Problem(name, 0, None, message, hint)])
