"""A bundle is read whole, as it was at one moment, and nothing in it is overlooked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.policy.problems import PolicyInvalid, Problem
from gateway.policy.source import directory as module
from gateway.policy.source.directory import FILE_BYTES_MAX, Files, read_directory
from tests.policy.bundles import POLICIES, default_files, write


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(PolicyInvalid) as raised:
        read_directory(path)
    return raised.value.problems


def test_the_revision_depends_on_names_and_bytes_and_on_nothing_else(tmp_path: Path) -> None:
    files = default_files()
    copy = write(dict(reversed(files.items())), tmp_path / "copy")
    os.utime(copy / "places.yaml", (1, 1))
    (copy / ".hidden").write_text("ignored")
    (copy / "README.md").write_text("ignored")
    write({"schema/zones.json": b"{}"}, copy)

    assert read_directory(copy).revision == read_directory(POLICIES).revision
    assert read_directory(copy).revision.startswith("sha256:")
    for name in files:
        changed = {**files, name: files[name] + b"#"}
        assert Files(changed).revision != Files(files).revision


def test_bytes_cannot_move_between_names_without_changing_the_revision() -> None:
    assert Files({"a": b"bc", "d": b""}).revision != Files({"a": b"b", "cd": b""}).revision
    assert Files({"a": b"1", "b": b"2"}).revision != Files({"a": b"2", "b": b"1"}).revision


def test_claims_are_part_of_the_revision_and_may_be_missing(tmp_path: Path) -> None:
    files = default_files()
    with_claims = read_directory(write(files, tmp_path / "with"))
    del files["claims.yaml"]
    without = read_directory(write(files, tmp_path / "without"))

    assert "claims.yaml" in with_claims.content
    assert "claims.yaml" not in without.content
    assert with_claims.revision != without.revision


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("place.yaml", "unknown file `place.yaml`", "did you mean `places.yaml`?"),
        ("claim.yaml", "unknown file `claim.yaml`", "did you mean `claims.yaml`?"),
        ("routes.yml", "unknown file `routes.yml`", "did you mean `routes.yaml`?"),
        ("residency/extra.yml", "unknown file `residency/extra.yml`", "its name must end in `.yaml`"),
        ("residncy/main.yaml", "unknown folder `residncy`", "did you mean `residency`?"),
        ("residency/more/main.yaml", "unknown folder `residency/more`", "use one of `residency, tests`"),
    ],
)
def test_a_file_that_nothing_would_read_is_a_problem(
    tmp_path: Path, name: str, message: str, hint: str
) -> None:
    bundle = write({**default_files(), name: b"x: 1"}, tmp_path)

    (problem,) = problems(bundle)
    assert (problem.message, problem.hint) == (message, hint)


@pytest.mark.parametrize("name", ["bundle.yaml", "zones.yaml", "places.yaml", "tenants.yaml", "routes.yaml"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    bundle = write(default_files(), tmp_path)
    (bundle / name).unlink()

    (problem,) = problems(bundle)
    assert (problem.file, problem.message) == (name, f"`{name}` is missing")


@pytest.mark.parametrize("folder", ["residency", "tests"])
def test_a_bundle_without_rules_or_without_examples_is_refused(tmp_path: Path, folder: str) -> None:
    files = {name: content for name, content in default_files().items() if not name.startswith(folder)}

    (problem,) = problems(write(files, tmp_path))
    assert (problem.message, problem.hint) == (
        f"`{folder}/` has no file",
        f"add one such as `{folder}/main.yaml`",
    )


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    assert problems(tmp_path / "absent")[0].message == f"there is no directory `{tmp_path / 'absent'}`"
    assert problems(tmp_path / "file")[0].message == f"`{tmp_path / 'file'}` is not a directory"


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    bundle = write({**default_files(), "tests/huge.yaml": b"#" * (FILE_BYTES_MAX + 1)}, tmp_path)

    assert problems(bundle)[0] == Problem(
        "tests/huge.yaml", 0, None, f"the file is larger than {FILE_BYTES_MAX} bytes", "split it"
    )


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    bundle = write(default_files(), tmp_path)
    (bundle / "tests" / "gone.yaml").symlink_to(tmp_path / "nowhere")

    assert problems(bundle)[0].message == "the directory changed during each of 5 readings"


def test_a_link_swapped_between_two_files_never_gives_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = default_files(), {name: text + b"\n# new\n" for name, text in default_files().items()}
    write(old, tmp_path / "old")
    write(new, tmp_path / "new")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    data = bundle / "..data"  # as a mounted ConfigMap does it: every file leads through one link
    data.symlink_to(tmp_path / "old")
    for name in old:
        (bundle / name).parent.mkdir(exist_ok=True)
        up = Path(*[".."] * name.count("/"))
        (bundle / name).symlink_to(up / "..data" / name)
    reads = []
    read_file = module.read_file

    def swapping(path: Path, name: str) -> bytes:
        content = read_file(path, name)
        reads.append(name)
        if len(reads) == 3:
            other = bundle / "..next"
            other.symlink_to(tmp_path / "new")
            other.rename(data)
        return content

    monkeypatch.setattr(module, "read_file", swapping)

    assert read_directory(bundle).content == new
    assert len(reads) == 2 * len(old)


def test_a_swap_of_the_directory_itself_while_reading_gives_one_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = default_files(), {name: text + b"\n# new\n" for name, text in default_files().items()}
    write(old, tmp_path / "old")
    write(new, tmp_path / "new")
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "old")
    read_file = module.read_file

    def swapping(path: Path, name: str) -> bytes:
        if not (tmp_path / "next").is_symlink() and current.resolve() == tmp_path / "old":
            (tmp_path / "next").symlink_to(tmp_path / "new")
            (tmp_path / "next").rename(current)
        return read_file(path, name)

    monkeypatch.setattr(module, "read_file", swapping)

    assert read_directory(current).content == old
    assert read_directory(current).content == new


def test_a_directory_that_never_holds_still_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write(default_files(), tmp_path)
    read_file = module.read_file

    def changing(path: Path, name: str) -> bytes:
        content = read_file(path, name)
        if name == "zones.yaml":
            (bundle / name).write_bytes(content + b"#\n")
        return content

    monkeypatch.setattr(module, "read_file", changing)

    assert problems(bundle)[0].message == "the directory changed during each of 5 readings"
