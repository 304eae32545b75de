"""The rules of the tree, each on a small tree that breaks it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.packaging.scripts import script

tree = script(".ci/tree.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree in which all is well."""
    for name, text in {
        "CHANGELOG.md": "# Changelog\n\n## [1.2.3]\n",
        "gateway/__init__.py": '__version__ = "1.2.3"\n',
        "README.md": "# Title\n\n## Some part\n\n[below](#some-part) [there](docs/page.md#two-words)\n",
        "docs/page.md": "# Page\n\n## Two `words`\n\n[up](../README.md) [out](https://example.org/x)\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_tree_in_which_all_is_well_has_no_problems(root: Path) -> None:
    names = ["CHANGELOG.md", "README.md", "docs/page.md", "gateway/__init__.py"]

    assert list(tree.changelog(root)) == []
    assert list(tree.links(root, names)) == []
    assert list(tree.forbidden(root, names)) == []
    assert list(tree.sizes(root, names)) == []


def test_a_changelog_that_opens_with_another_version_is_a_problem(root: Path) -> None:
    (root / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.2]\n\n## [1.2.3]\n")

    assert list(tree.changelog(root)) == [
        "CHANGELOG.md: opens with `1.2.2`, gateway/__init__.py says `1.2.3`"
    ]


def test_links_that_lead_nowhere_are_problems_and_those_in_code_are_not(root: Path) -> None:
    (root / "README.md").write_text("[a](no.md) [b](docs/page.md#none) [c](#gone)\n\n```\n[d](no.md)\n```\n")

    assert list(tree.links(root, ["README.md"])) == [
        "README.md: link to `no.md`, which is not there",
        "README.md: link to `docs/page.md#none`, but that document has no such heading",
        "README.md: link to `#gone`, but that document has no such heading",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "https://packages.example" + "/simple/x",
        "--extra-index" + "-url",
        "--find" + "-links",
        "file:" + "///wheels",
        "/root" + "/.cache",
        "/home" + "/alice/douane",
    ],
)
def test_addresses_of_registries_and_paths_of_one_machine_are_problems(root: Path, text: str) -> None:
    (root / "README.md").write_text(f"fine\nsee {text} there\n")

    (problem,) = tree.forbidden(root, ["README.md"])

    assert problem.startswith("README.md:2: `")


def test_a_file_that_is_not_text_is_not_read_as_text(root: Path) -> None:
    (root / "picture.png").write_bytes(b"\x89PNG\0\xff/root" + b"/.cache")

    assert list(tree.forbidden(root, ["picture.png"])) == []


def test_sources_and_files_that_have_grown_too_large_are_problems(root: Path) -> None:
    (root / "gateway/long.py").write_text("x = 1\n" * (tree.SOURCE_LINES + 1))
    (root / "large.bin").write_bytes(bytes(tree.FILE_BYTES + 1))

    lines, size = list(tree.sizes(root, ["gateway/long.py", "large.bin"]))

    assert lines == f"gateway/long.py: {tree.SOURCE_LINES + 1} lines, more than {tree.SOURCE_LINES}: split it"
    assert size.startswith(f"large.bin: {tree.FILE_BYTES + 1} bytes, more than {tree.FILE_BYTES}: ")


@pytest.mark.needs("git")
def test_the_files_of_a_tree_are_those_that_git_would_track(root: Path) -> None:
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text("made/\n")
    (root / "made").mkdir()
    (root / "made/x").write_text("")

    assert tree.files(root) == [
        ".gitignore",
        "CHANGELOG.md",
        "README.md",
        "docs/page.md",
        "gateway/__init__.py",
    ]
