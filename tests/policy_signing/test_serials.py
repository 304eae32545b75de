"""The highest serial that was in force is remembered, by all workers of a machine and across restarts."""

from __future__ import annotations

import random
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.policy.problems import PolicyUntrusted
from gateway.policy.serials import FILE, Highest, NoSerials, SerialFile, read_highest


def refusal(directory: Path, revision: str, serial: int) -> str:
    with pytest.raises(PolicyUntrusted) as raised:
        SerialFile(directory).advance(revision, serial)
    assert raised.value.reason == "serial"
    return str(raised.value)


def test_the_first_bundle_may_have_any_serial(tmp_path: Path) -> None:
    serials = SerialFile(tmp_path / "state")
    serials.check("r7", 7)

    assert serials.advance("r7", 7) is None
    assert read_highest(serials.path) == Highest(serial=7, revision="r7")
    assert stat.S_IMODE(serials.path.stat().st_mode) == 0o600


def test_a_higher_serial_and_the_same_bundle_again_are_taken(tmp_path: Path) -> None:
    SerialFile(tmp_path).advance("r7", 7)

    SerialFile(tmp_path).advance("r7", 7)
    assert SerialFile(tmp_path).advance("r9", 9) == Highest(serial=7, revision="r7")


def test_a_lower_serial_is_refused_and_told_how_to_go_back_on_purpose(tmp_path: Path) -> None:
    SerialFile(tmp_path).advance("r9", 9)

    assert refusal(tmp_path, "r7", 7) == (
        "bundle.yaml: the serial 7 is lower than 9, which was in force here "
        f"(`r9`, says `{tmp_path / FILE}`); "
        "to go back on purpose, give the bundle a serial above 9 and sign it"
    )
    assert read_highest(tmp_path / FILE) == Highest(serial=9, revision="r9")


def test_the_same_serial_of_other_content_is_refused(tmp_path: Path) -> None:
    SerialFile(tmp_path).advance("r9", 9)

    said = refusal(tmp_path, "other", 9)
    assert "the serial 9 was in force here with other content (`r9`" in said
    assert "give the changed bundle a serial above 9 and sign it" in said


def test_a_check_remembers_nothing(tmp_path: Path) -> None:
    SerialFile(tmp_path).check("r9", 9)
    SerialFile(tmp_path).check("r7", 7)

    assert not (tmp_path / FILE).exists()


def test_what_could_not_be_put_in_force_is_taken_back(tmp_path: Path) -> None:
    serials = SerialFile(tmp_path)
    serials.withdraw("r7", serials.advance("r7", 7))
    assert read_highest(serials.path) is None

    serials.advance("r7", 7)
    serials.withdraw("r9", serials.advance("r9", 9))
    assert read_highest(serials.path) == Highest(serial=7, revision="r7")


def test_what_another_worker_put_in_force_meanwhile_is_not_taken_back(tmp_path: Path) -> None:
    mine, other = SerialFile(tmp_path), SerialFile(tmp_path)
    before = mine.advance("r7", 7)
    other.advance("r9", 9)
    mine.withdraw("r7", before)

    assert read_highest(mine.path) == Highest(serial=9, revision="r9")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"version":2,"serial":1,"revision":"r"}',
        b'{"serial":"9","revision":"r"}',
        b'{"serial":9}',
    ],
)
def test_a_damaged_memory_refuses_every_bundle_rather_than_forget(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    said = refusal(tmp_path, "r99", 99)
    assert "is damaged, so that it cannot be told whether a newer bundle was in force" in said
    assert "restore it, or remove it once you know that none was" in said
    assert (tmp_path / FILE).read_bytes() == content


def test_a_memory_that_cannot_be_written_refuses_every_bundle(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")

    assert "cannot be kept in" in refusal(tmp_path / "state", "r1", 1)


def test_of_many_workers_at_once_none_takes_the_serial_back(tmp_path: Path) -> None:
    serials = list(range(1, 25)) * 2
    random.Random(7).shuffle(serials)

    def advance(serial: int) -> bool:
        try:
            SerialFile(tmp_path).advance(f"r{serial}", serial)
        except PolicyUntrusted:
            return False
        return True

    with ThreadPoolExecutor(8) as workers:
        taken = list(workers.map(advance, serials))
    assert taken[serials.index(24)]
    assert read_highest(tmp_path / FILE) == Highest(serial=24, revision="r24")


def test_without_signatures_nothing_is_remembered() -> None:
    for serial in (9, 1, 9):
        NoSerials().check(f"r{serial}", serial)
        NoSerials().advance(f"r{serial}", serial)
