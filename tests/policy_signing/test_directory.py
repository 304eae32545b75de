"""`signatures/` lies in the bundle, is not hashed, and is read in the same moment as the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.policy.problems import PolicyInvalid
from gateway.policy.source import directory as module
from gateway.policy.source.directory import SIGNATURE_BYTES_MAX, SIGNATURES_MAX, read_directory
from tests.policy_signing.signing import ANN, BOB, bundle, signed, trust, write

FILES = bundle()


def problem(directory: Path) -> tuple[str, str]:
    with pytest.raises(PolicyInvalid) as raised:
        read_directory(directory)
    (one,) = raised.value.problems
    return one.file, one.message


def test_signatures_are_no_part_of_the_revision_and_everything_else_that_is_read_is(tmp_path: Path) -> None:
    unsigned = read_directory(write(FILES, tmp_path / "unsigned"))
    read = read_directory(write(signed(FILES, ANN, BOB), tmp_path / "signed"))

    assert read.revision == unsigned.revision == FILES.revision
    assert read.content == FILES.content
    assert sorted(read.signatures) == sorted(f"signatures/{one.kid}.jws" for one in (ANN, BOB))
    assert unsigned.signatures == {}


def test_a_signature_folder_may_be_a_link_as_in_a_mounted_volume(tmp_path: Path) -> None:
    elsewhere = write(signed(FILES, ANN), tmp_path / "elsewhere")
    here = write(FILES, tmp_path / "bundle")
    (here / "signatures").symlink_to(elsewhere / "signatures")

    assert trust(ANN).require(read_directory(here)) == (ANN.kid,)


def test_a_link_to_the_signatures_of_another_bundle_brings_nothing(tmp_path: Path) -> None:
    elsewhere = write(signed(bundle(serial=2), ANN, serial=2), tmp_path / "elsewhere")
    here = write(FILES, tmp_path / "bundle")
    (here / "signatures").symlink_to(elsewhere / "signatures")

    with pytest.raises(Exception, match="signed another content"):
        trust(ANN).require(read_directory(here))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("signatures/ann.sig", b"x", "unknown file `signatures/ann.sig`"),
        ("signatures/more/ann.jws", b"x", "unknown folder `signatures/more`"),
        ("signatures/a.jws", b"x" * (SIGNATURE_BYTES_MAX + 1), "the file is larger than 16384 bytes"),
    ],
)
def test_what_cannot_be_a_signature_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    directory = write(FILES, tmp_path)
    (directory / name).parent.mkdir(parents=True)
    (directory / name).write_bytes(content)

    assert problem(directory)[1] == message


def test_there_are_not_more_signatures_than_anybody_needs(tmp_path: Path) -> None:
    directory = write(FILES, tmp_path)
    (directory / "signatures").mkdir()
    for number in range(SIGNATURES_MAX + 1):
        (directory / "signatures" / f"{number}.jws").write_bytes(b"x")

    assert problem(directory) == ("signatures/", "more than 32 signatures")


@pytest.mark.parametrize("name", ["signatures/pipe.jws", "residency/pipe.yaml"])
def test_a_pipe_does_not_keep_the_reader_waiting(tmp_path: Path, name: str) -> None:
    directory = write(FILES, tmp_path)
    (directory / name).parent.mkdir(exist_ok=True)
    os.mkfifo(directory / name)

    assert problem(directory) == (name, f"`{name}` is not a regular file")


def test_a_name_that_is_no_text_is_refused_in_text(tmp_path: Path) -> None:
    directory = write(FILES, tmp_path)
    (directory / "residency" / os.fsdecode(b"\xff.yaml")).write_bytes(b"")

    assert problem(directory) == ("residency/?.yaml", "the name `residency/?.yaml` is not UTF-8")


def test_files_and_signatures_swapped_while_they_are_read_are_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = signed(FILES, ANN), signed(bundle(serial=2), ANN, serial=2)
    write(old, tmp_path / "old")
    write(new, tmp_path / "new")
    link = tmp_path / "bundle"
    link.symlink_to("old")
    read_file, reads = module.read_file, 0

    def swapping(path: Path, name: str) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 4:
            draft = tmp_path / "draft"
            draft.symlink_to("new")
            draft.replace(link)
            write(new, tmp_path / "old")
        return read_file(path, name)

    monkeypatch.setattr(module, "read_file", swapping)
    read = read_directory(link)

    assert (read.content, read.signatures) == (new.content, new.signatures)
    assert trust(ANN).require(read) == (ANN.kid,)
