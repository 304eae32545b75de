"""The folder of wrapped keys, and the master key's file: modes, marks, crashes, and what others may reach."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.keys.shelf import FileShelf, Kept, Shredded, name_of
from gateway.keys.wrapping import KeyFileInvalid, MasterKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def kept(tenant: str, wrapped: str = "d3JhcHBlZC1rZXk=") -> Kept:
    return Kept(tenant=tenant, key_id="0" * 16, wrapped_by="file", wrapped=wrapped,
                made_at="2026-01-01T00:00:00.000000Z")  # fmt: skip


@pytest.fixture
def shelf(tmp_path: Path) -> FileShelf:
    return FileShelf.open(tmp_path / "keys")


def test_folder_and_files_are_their_owners_alone(shelf: FileShelf) -> None:
    shelf.keep(kept("acme"))

    assert stat.S_IMODE(shelf.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in shelf.directory.iterdir()} == {0o600}


@pytest.mark.parametrize("tenant", ["../../etc/passwd", "a/b", "", "ü" * 300, "acme.json", "\0"])
def test_no_tenant_s_id_leads_out_of_the_folder(shelf: FileShelf, tenant: str) -> None:
    shelf.keep(kept(tenant))

    assert shelf.find(tenant) == kept(tenant)
    assert {path.parent for path in shelf.directory.rglob("*.json")} == {shelf.directory}


def test_the_first_key_stays(shelf: FileShelf) -> None:
    first = shelf.keep(kept("acme", "Zmlyc3Q="))

    assert shelf.keep(kept("acme", "c2Vjb25k")) == first == shelf.find("acme")


def test_a_shredded_key_is_gone_from_the_file_and_its_mark_stays(shelf: FileShelf) -> None:
    shelf.keep(kept("acme", "c2VjcmV0LXdyYXBwZWQta2V5"))

    mark = shelf.shred("acme", NOW)

    assert mark == Shredded(tenant="acme", key_id="0" * 16, shredded_at="2026-01-01T00:00:00.000000Z")
    assert shelf.find("acme") == mark == shelf.shred("acme", datetime(2027, 1, 1, tzinfo=UTC))
    assert shelf.keep(kept("acme")) == mark  # no key is made while the mark stands
    everything = b"".join(path.read_bytes() for path in shelf.directory.iterdir())
    assert b"c2VjcmV0LXdyYXBwZWQta2V5" not in everything


def test_the_bytes_of_a_shredded_key_are_written_over_before_the_file_goes(
    shelf: FileShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.keep(kept("acme"))
    path = shelf.directory / name_of("acme")
    before = path.read_bytes()
    held = path.open("rb")  # the file itself, whatever its name leads to later
    shelf.shred("acme", NOW)

    after = held.read()
    held.close()
    assert len(after) == len(before)
    assert after != before
    assert b"wrapped" not in after


def test_a_tenant_that_never_had_a_key_can_be_shredded_too(shelf: FileShelf) -> None:
    assert shelf.shred("acme", NOW).key_id is None
    assert isinstance(shelf.find("acme"), Shredded)


def test_a_damaged_key_can_be_shredded(shelf: FileShelf) -> None:
    shelf.keep(kept("acme"))
    (shelf.directory / name_of("acme")).write_text("{")

    assert shelf.shred("acme", NOW).key_id is None
    assert isinstance(shelf.find("acme"), Shredded)


def test_only_a_shredded_tenant_can_be_renewed(shelf: FileShelf) -> None:
    shelf.keep(kept("acme"))
    assert not shelf.renew("acme")
    assert not shelf.renew("nobody")
    shelf.shred("acme", NOW)

    assert shelf.renew("acme")
    assert shelf.find("acme") is None


def test_one_worker_alone_records_that_a_key_was_destroyed(shelf: FileShelf) -> None:
    shelf.keep(kept("acme"))
    assert shelf.claim_record("acme") is None
    shelf.shred("acme", NOW)

    assert [shelf.claim_record("acme") is not None for _ in range(3)] == [True, False, False]


def test_every_change_shows_in_the_fingerprint(shelf: FileShelf) -> None:
    seen = [shelf.fingerprint()]
    shelf.keep(kept("acme"))
    seen.append(shelf.fingerprint())
    shelf.shred("acme", NOW)
    seen.append(shelf.fingerprint())
    shelf.claim_record("acme")
    seen.append(shelf.fingerprint())
    shelf.renew("acme")
    seen.append(shelf.fingerprint())

    assert len(set(seen)) == len(seen) - 1  # at the end it is empty again
    assert seen[-1] == seen[0]


def test_a_crash_while_a_key_is_kept_leaves_none(shelf: FileShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("gateway.keys.shelf.os.fsync", crash)
    with pytest.raises(KeyFileInvalid, match="cannot be used: input/output error"):
        shelf.keep(kept("acme"))
    monkeypatch.undo()

    assert shelf.find("acme") is None
    assert shelf.keep(kept("acme")) == kept("acme")


def test_a_folder_keeps_its_name_and_another_folder_has_another(tmp_path: Path, shelf: FileShelf) -> None:
    assert FileShelf.open(shelf.directory).id == shelf.id
    assert FileShelf.open(tmp_path / "other").id != shelf.id


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o750, 0o777])
def test_a_folder_that_others_can_reach_is_refused(shelf: FileShelf, mode: int) -> None:
    shelf.directory.chmod(mode)

    with pytest.raises(KeyFileInvalid, match=f"has mode `0{mode:o}`: others can reach keys; run `chmod 700"):
        FileShelf.open(shelf.directory)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_reach_is_refused(shelf: FileShelf, mode: int) -> None:
    shelf.keep(kept("acme"))
    (shelf.directory / name_of("acme")).chmod(mode)

    with pytest.raises(KeyFileInvalid, match="run `chmod 600"):
        shelf.find("acme")


def test_a_new_master_key_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    created = MasterKey.create(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert MasterKey.from_file(path).unwrap("acme", created.wrap("acme", b"k" * 32)) == b"k" * 32


def test_a_master_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    MasterKey.create(path)
    before = path.read_bytes()

    with pytest.raises(FileExistsError):
        MasterKey.create(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_master_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    MasterKey.create(path)
    path.chmod(mode)

    with pytest.raises(KeyFileInvalid) as refused:
        MasterKey.from_file(path)
    assert str(refused.value) == (
        f"the master key `{path}` has mode `{mode:04o}`: others can read it; "
        f"run `chmod 600 {path}` if nobody has, else make a new one"
    )


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_master_key_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(b"k" * size)
    path.chmod(0o600)

    with pytest.raises(
        KeyFileInvalid, match="does not hold exactly 32 bytes; write raw random bytes, not text"
    ):
        MasterKey.from_file(path)


def test_a_missing_master_key_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with pytest.raises(KeyFileInvalid) as refused:
        MasterKey.from_file(path)

    assert str(refused.value) == (
        f"there is no master key at `{path}`; make one with `douane init --state-dir {tmp_path}`"
    )
