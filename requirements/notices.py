"""Writes THIRD_PARTY_NOTICES.md: every package that a Douane installation pulls in, with its licence.

The names and versions come from run.txt, torch.txt and cpu.txt, the licences from the metadata of the
installed packages, so the file says what is really there. `--check` compares instead of writing: exit 1 when
stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTICES = ROOT / "THIRD_PARTY_NOTICES.md"
# Installed on some platforms only; named here so that the file does not depend on where it was written.
ELSEWHERE = {"async-timeout": "Apache-2.0", "colorama": "BSD-3-Clause", "triton": "MIT"}
PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\]+))?", re.MULTILINE
)
HEADER = """# Third-party notices

Douane is licensed under Apache-2.0 (`LICENSE`). It is installed together with the packages below, each under
its own licence; the full texts lie in each package's `dist-info` folder. Written by `make notices`.

ISO 3166 country codes come from the `pycountry` package, AWS region names from `botocore`'s endpoint data,
model prices and the `o200k_base` vocabulary from the `litellm` package; each is read from the installed
package and none is copied into this repository.

| package | version | licence |
|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Pin:
    """One line of a pin file; `marker` is the environment that it is for, or "" for all."""

    name: str
    version: str
    marker: str


def pins(text: str) -> list[Pin]:
    """The pins of a requirements file, in its order."""
    return [Pin(m["name"], m["version"], (m["marker"] or "").strip()) for m in PIN.finditer(text)]


def licence(name: str) -> str:
    """The licence that a package declares: an SPDX expression, else classifiers, else free text.

    Raises LookupError when it declares none of them, PackageNotFoundError when it is not installed.
    """
    meta = metadata.metadata(name)
    if "License-Expression" in meta:
        return meta["License-Expression"]
    classifiers = [c for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    named = [c.rsplit(" :: ", 1)[-1] for c in classifiers if c != "License :: OSI Approved"]
    if named:
        return ", ".join(named)
    if "License" in meta and meta["License"].strip():
        return meta["License"].strip().splitlines()[0]
    raise LookupError(f"`{name}` declares no licence: look it up and name it in requirements/notices.py")


def render(wanted: list[Pin]) -> str:
    """The whole file, packages in alphabetical order; a package for some platforms only says for which."""
    lines = []
    for pin in sorted(wanted, key=lambda p: p.name.lower()):
        text = ELSEWHERE.get(pin.name) or licence(pin.name)
        where = f" (only where `{pin.marker}`)" if pin.name in ELSEWHERE else ""
        lines.append(f"| {pin.name} | {pin.version} | {text}{where} |")
    return HEADER + "\n".join(lines) + "\n"


def current() -> str:
    """What the file should say for the pins of this tree."""
    names = ("run.txt", "torch.txt", "cpu.txt")
    texts = [(ROOT / "requirements" / name).read_text(encoding="utf-8") for name in names]
    return render([pin for text in texts for pin in pins(text)])


def main() -> int:
    """Writes the file, or with `--check` compares: 0 when it is current, 1 when not."""
    parser = argparse.ArgumentParser(description="write THIRD_PARTY_NOTICES.md from the pins")
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if NOTICES.read_text(encoding="utf-8") == current():
            return 0
        print("`THIRD_PARTY_NOTICES.md` is not what the pins say: run `make notices`", file=sys.stderr)
        return 1
    NOTICES.write_text(current(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
