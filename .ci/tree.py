"""The rules of the tree that no linter knows: `python .ci/tree.py` prints what is wrong, exit 1, or nothing.

Checked over the files that git tracks or would track: the changelog opens with the package's version, links
in documents lead somewhere, no file names a package registry's address or a machine's own path, sources stay
readable in size, and the third-party notices are those of the pins.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_LINES = 450  # a module beyond this is two modules
FILE_BYTES = 1 << 20
SOURCES = ("gateway/", "local_engine/", "bench/", "requirements/", ".ci/", "infra/")

# Where packages come from is each machine's own setting; paths of one machine mean nothing on another.
FORBIDDEN = re.compile(
    r"--(?:extra-)?index-[u]rl\b|--[f]ind-links\b|https?://[\w.-]+/(?:simple|packages)/"
    r"|[f]ile:///|/(?:home|Users)/\w+/|/[r]oot/"
)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *$", re.MULTILINE)
RELEASE = re.compile(r"^## \[(?P<version>[^\]]+)\]", re.MULTILINE)
VERSION = re.compile(r'^__version__ = "(?P<version>[^"]+)"', re.MULTILINE)


def files(root: Path) -> list[str]:
    """Paths relative to `root` that git tracks or would track. Raises CalledProcessError outside git."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return sorted(name for name in set(listed.split("\0")) if name and (root / name).is_file())


def text_of(path: Path) -> str | None:
    """A file's text, or None for one that is not text."""
    data = path.read_bytes()
    return None if b"\0" in data[:4096] else data.decode("utf-8")


def anchor(heading: str) -> str:
    """The fragment that a heading gets when the document is shown as a page."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.replace(" ", "-")


def changelog(root: Path) -> Iterator[str]:
    """The newest release in CHANGELOG.md is the version that the package declares."""
    released = RELEASE.search((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    declared = VERSION.search((root / "gateway/__init__.py").read_text(encoding="utf-8"))
    if declared is None:
        yield 'gateway/__init__.py: no line `__version__ = "..."`'
    elif released is None or released["version"] != declared["version"]:
        found = released["version"] if released else "no release"
        yield f"CHANGELOG.md: opens with `{found}`, gateway/__init__.py says `{declared['version']}`"


def links(root: Path, names: list[str]) -> Iterator[str]:
    """Every relative link of every markdown file leads to a file, and its fragment to a heading."""
    for name in (n for n in names if n.endswith(".md")):
        prose = FENCE.sub("", (root / name).read_text(encoding="utf-8"))
        for match in LINK.finditer(prose):
            target, _, fragment = match["target"].partition("#")
            if "://" in match["target"] or target.startswith("mailto:"):
                continue
            aim = (root / name).parent / target if target else root / name
            if not aim.exists():
                yield f"{name}: link to `{match['target']}`, which is not there"
            elif fragment and aim.suffix == ".md":
                headings = HEADING.finditer(FENCE.sub("", aim.read_text(encoding="utf-8")))
                if fragment not in {anchor(h["text"]) for h in headings}:
                    yield f"{name}: link to `{match['target']}`, but that document has no such heading"


def forbidden(root: Path, names: list[str]) -> Iterator[str]:
    """No text file names a registry's address or a path of one machine."""
    for name in names:
        for number, line in enumerate((text_of(root / name) or "").splitlines(), 1):
            if match := FORBIDDEN.search(line):
                yield f"{name}:{number}: `{match[0]}` belongs to one machine's settings, not into the tree"


def sizes(root: Path, names: list[str]) -> Iterator[str]:
    """Sources stay within SOURCE_LINES lines, any file within FILE_BYTES bytes."""
    for name in names:
        data = (root / name).read_bytes()
        if len(data) > FILE_BYTES:
            yield f"{name}: {len(data)} bytes, more than {FILE_BYTES}: what is that large is made, not kept"
        lines = data.count(b"\n")
        if name.startswith(SOURCES) and name.endswith((".py", ".cpp")) and lines > SOURCE_LINES:
            yield f"{name}: {lines} lines, more than {SOURCE_LINES}: split it"


def notices(root: Path) -> Iterator[str]:
    """THIRD_PARTY_NOTICES.md is what the pins and the installed packages say."""
    script = root / "requirements/notices.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        yield done.stderr.strip()


def problems(root: Path) -> list[str]:
    """Everything that is wrong with the tree, a sentence each."""
    names = files(root)
    return [
        *changelog(root),
        *links(root, names),
        *forbidden(root, names),
        *sizes(root, names),
        *notices(root),
    ]


def main() -> int:
    """Prints the problems: exit 0 when there are none, 1 otherwise."""
    found = problems(ROOT)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
