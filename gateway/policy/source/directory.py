"""Reads a bundle directory into bytes, all of one moment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Final

from gateway.policy.problems import PolicyInvalid, Problem, did_you_mean

REQUIRED: Final = ("bundle.yaml", "zones.yaml", "places.yaml", "tenants.yaml", "routes.yaml")
OPTIONAL: Final = ("claims.yaml", "detectors.yaml")
FOLDERS: Final = ("residency", "tests")
ADOPTED: Final = "adopted"  # packs that are in force, a folder each
PACK_FILES: Final = ("pack.yaml", "claims.yaml")
SIGNATURES: Final = "signatures"  # of the bundle, and so no part of what they sign
SIGNATURES_MAX: Final = 32
SIGNATURE_BYTES_MAX: Final = 16 * 1024
BESIDE: Final = ("packs", "schema", "README.md")  # may lie there, and are no part of the bundle
FILE_BYTES_MAX: Final = 1 << 20
FILES_MAX: Final = 500
READS_MAX: Final = 5

Stamp = tuple[tuple[str, str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Files:
    """The bytes of every file of a bundle, by path inside it, and the hash over them.

    INVARIANT: whatever is read of a bundle is in `content`, and so in its revision. `signatures` are not.
    """

    content: Mapping[str, bytes]
    signatures: Mapping[str, bytes] = field(default_factory=dict)

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

    def packs(self) -> tuple[str, ...]:
        """The names of the adopted packs, sorted: their rules come after the bundle's own."""
        return tuple(sorted({name.split("/")[1] for name in self.content if name.startswith(f"{ADOPTED}/")}))


def read_directory(directory: Path) -> Files:
    """Every file of the bundle in `directory`. Raises PolicyInvalid.

    The directory may be a symlink, or hold symlinks, that another process swaps at any moment: what is read
    counts only if the same files were there before and after, else it is read again.
    """
    for _ in range(READS_MAX):
        try:
            root = directory.resolve(strict=True)
            before = stamp(root)
            found = {name: read_file(root / name, name) for name, *_ in before}
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
            signatures = {name: text for name, text in found.items() if name.startswith(f"{SIGNATURES}/")}
            content = {name: text for name, text in found.items() if name not in signatures}
            check_names(tuple(content))
            check_signatures(signatures)
            return Files(content, signatures)
    raise refused(
        ".",
        f"the directory changed during each of {READS_MAX} readings",
        "write a bundle aside, then swap it in",
    )


def stamp(root: Path) -> Stamp:
    """What identifies every file at this moment: its name, the file it leads to, and that file's state."""
    found: list[tuple[str, str, int, int, int, int]] = []
    folders = [
        (root, (*FOLDERS, ADOPTED, SIGNATURES)),
        *((root / name, ()) for name in (*FOLDERS, SIGNATURES)),
    ]
    for pack in pack_folders(root):
        folders += [(pack, ("residency",)), (pack / "residency", ())]
    for folder, below in folders:
        if folder is not root and not folder.is_dir():
            continue
        for entry in sorted(os.listdir(folder)):
            path = folder / entry
            name = path.relative_to(root).as_posix()
            if not is_text(name):
                shown = name.encode(errors="replace").decode()
                raise refused(shown, f"the name `{shown}` is not UTF-8", "give the file another name")
            if entry.startswith(".") or entry in below or (folder is root and entry in BESIDE):
                continue
            if path.is_dir():
                raise refused(name, f"unknown folder `{name}`", did_you_mean(entry, below or FOLDERS))
            target = path.resolve(strict=True)
            state = target.stat()
            if not S_ISREG(state.st_mode):  # a pipe would keep the reader waiting
                raise refused(name, f"`{name}` is not a regular file", "put a file or a link to one there")
            found.append((name, str(target), state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size))
            if len(found) > FILES_MAX:
                raise refused(".", f"more than {FILES_MAX} files", "join some of them")
    return tuple(found)


def is_text(name: str) -> bool:
    """Whether a file's name can be hashed and told: Linux lets it be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def pack_folders(root: Path) -> list[Path]:
    """The folder of each adopted pack. Raises PolicyInvalid for a pack where it would not be in force."""
    for stray in sorted((root / "packs").glob("*/pack.yaml")):
        name = stray.parent.name
        hint = f"a pack in force lies in `{ADOPTED}/{name}/`; move it there"
        raise refused(f"packs/{name}/pack.yaml", f"the pack `{name}` is not adopted where it lies", hint)
    if not (root / ADOPTED).is_dir():
        return []
    found = [root / ADOPTED / entry for entry in sorted(os.listdir(root / ADOPTED)) if entry[:1] != "."]
    for pack in found:
        if not pack.is_dir():
            name = pack.relative_to(root).as_posix()
            raise refused(name, f"unknown file `{name}`", "a pack is a folder with a `pack.yaml`")
    return found


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
    packs = {tuple(name.split("/")[:2]) for name in names if name.startswith(f"{ADOPTED}/")}
    problems += [
        Problem(f"{folder}/{pack}/", 0, None, f"`{file}` of the pack `{pack}` is missing", "adopt it again")
        for folder, pack in sorted(packs)
        for file in ("pack.yaml", "residency/")
        if not any(name.startswith(f"{folder}/{pack}/{file}") for name in names)
    ]
    for name in names:
        within = name.split("/", 2)[2] if name.startswith(f"{ADOPTED}/") else name
        if within is not name and "/" not in within and within not in PACK_FILES:
            problems.append(
                Problem(name, 0, None, f"unknown file `{name}`", did_you_mean(within, PACK_FILES))
            )
        elif "/" not in name and name not in (*REQUIRED, *OPTIONAL):
            hint = did_you_mean(name, (*REQUIRED, *OPTIONAL))
            problems.append(Problem(name, 0, None, f"unknown file `{name}`", hint))
        elif "/" in name and not name.endswith(".yaml"):
            problems.append(Problem(name, 0, None, f"unknown file `{name}`", "its name must end in `.yaml`"))
    if problems:
        raise PolicyInvalid(problems)


def check_signatures(signatures: Mapping[str, bytes]) -> None:
    """Raises PolicyInvalid for what cannot be a signature by its name or size. None has been verified."""
    if len(signatures) > SIGNATURES_MAX:
        hint = "remove those of earlier revisions"
        raise refused(f"{SIGNATURES}/", f"more than {SIGNATURES_MAX} signatures", hint)
    for name, content in signatures.items():
        if not name.endswith(".jws"):
            raise refused(name, f"unknown file `{name}`", "its name must end in `.jws`")
        if len(content) > SIGNATURE_BYTES_MAX:
            raise refused(name, f"the file is larger than {SIGNATURE_BYTES_MAX} bytes", "it is no signature")


def refused(name: str, message: str, hint: str) -> PolicyInvalid:
    """A single problem with a file as a whole."""
    return PolicyInvalid([Problem(name, 0, None, message, hint)])
