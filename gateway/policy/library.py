"""The packs that ship: `packs/NAME/` beside the default policies is a small bundle that has adopted NAME."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gateway
from gateway.policy.problems import PolicyInvalid, Problem, did_you_mean
from gateway.policy.source.check import check
from gateway.policy.source.directory import ADOPTED, Files, read_directory
from gateway.policy.source.document import parse_document
from gateway.policy.source.packs import PackFile


@dataclass(frozen=True, slots=True)
class Shipped:
    """A pack with its files, by their names inside a bundle that adopts it, and its example bundle."""

    about: PackFile
    files: Mapping[str, bytes]
    example: Path


def library() -> Path:
    """The folder of the packs that ship: of an installed gateway beside its code, else of the source tree."""
    code = Path(gateway.__file__).parent
    packaged = code / "default_policies" / "packs"
    return packaged if packaged.is_dir() else code.parent / "policies" / "packs"


def shipped(folder: Path | None = None) -> dict[str, Shipped]:
    """Every pack that ships, by name. Raises PolicyInvalid for one that is damaged."""
    root = library() if folder is None else folder
    found = {}
    for example in sorted(path for path in root.iterdir() if path.is_dir()):
        inside = f"{ADOPTED}/{example.name}/"
        files = {
            name: content
            for name, content in read_directory(example).content.items()
            if name.startswith(inside)
        }
        document = parse_document(f"{inside}pack.yaml", files[f"{inside}pack.yaml"])
        about, problems = check(document, PackFile)
        if about is None:
            raise PolicyInvalid(problems)
        found[about.name] = Shipped(about, files, example)
    return found


def pack_called(name: str, folder: Path | None = None) -> Shipped:
    """The pack with this name. Raises PolicyInvalid."""
    packs = shipped(folder)
    if name not in packs:
        hint = did_you_mean(name, packs)
        raise PolicyInvalid([Problem(name, 0, None, f"there is no pack `{name}`", hint)])
    return packs[name]


def adopting(files: Files, pack: Shipped) -> Files:
    """The files of a bundle that adopts a pack. Raises PolicyInvalid when it already has."""
    name = pack.about.name
    if name in files.packs():
        where = f"{ADOPTED}/{name}/"
        message = f"the pack `{name}` is already adopted"
        hint = f"to take another version of it, remove `{where}` first"
        raise PolicyInvalid([Problem(where, 0, None, message, hint)])
    return Files({**files.content, **pack.files})


def write_pack(pack: Shipped, directory: Path) -> list[Path]:
    """Writes the files of a pack into a bundle directory; the paths written."""
    written = []
    for name, content in pack.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    return written
