"""What a bundle must pass to come into force, and that what passed is what comes into force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.policy.load import compile_files
from gateway.policy.problems import REFUSALS, PolicyTestsFailed, PolicyUntrusted, reason_of
from gateway.policy.serials import SerialFile
from gateway.policy.source.directory import Files, read_directory
from tests.policy_signing.signing import (
    ANN,
    BOB,
    EVE,
    NO_CLOUD,
    admission,
    bundle,
    signature,
    signed,
    trust,
    write,
)

GOOD = signed(bundle(serial=5), ANN, serial=5)
OTHER = signed(bundle(serial=6), ANN, serial=6)

ATTACKS: dict[str, tuple[Callable[[], Files], str]] = {
    "no signature": (lambda: bundle(serial=6), "unsigned"),
    "one byte changed after signing": (
        lambda: Files({**OTHER.content, "zones.yaml": OTHER.content["zones.yaml"] + b"\n"}, OTHER.signatures),
        "signature",
    ),
    "the signature of another bundle": (lambda: Files(OTHER.content, GOOD.signatures), "signature"),
    "a foreign key": (lambda: signed(bundle(serial=6), EVE, serial=6), "signature"),
    "a signature file of garbage": (
        lambda: Files(OTHER.content, {"signatures/x.jws": b"\xff\x00"}),
        "signature",
    ),
    "a statement with a higher serial than the bundle's": (
        lambda: signed(bundle(serial=4), ANN, serial=99),
        "signature",
    ),
    "a lower serial, signed": (lambda: signed(bundle(serial=4), ANN, serial=4), "serial"),
    "the same serial of other content, signed": (
        lambda: signed(
            Files({**GOOD.content, "zones.yaml": GOOD.content["zones.yaml"] + b"\n"}), ANN, serial=5
        ),
        "serial",
    ),
    "broken rules, signed": (
        lambda: signed(bundle(serial=6, more={"routes.yaml": b"{"}), ANN, serial=6),
        "invalid",
    ),
    "rules whose examples fail, signed": (
        lambda: signed(bundle(serial=6, more=NO_CLOUD), ANN, serial=6),
        "tests_failed",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_not_admitted_and_the_reason_is_one_word(tmp_path: Path, attack: str) -> None:
    make, reason = ATTACKS[attack]
    serials = SerialFile(tmp_path)
    serials.advance(GOOD.revision, 5)

    with pytest.raises(REFUSALS) as raised:
        admission(trust(ANN), serials).admit(make())
    assert reason_of(raised.value) == reason


def test_a_signed_bundle_with_a_higher_serial_is_admitted_with_its_signers(tmp_path: Path) -> None:
    serials = SerialFile(tmp_path)
    serials.advance(GOOD.revision, 5)
    live = admission(trust(ANN, BOB), serials).admit(signed(bundle(serial=6), ANN, BOB, serial=6))

    assert live.signed_by == tuple(sorted((ANN.kid, BOB.kid)))
    assert (live.bundle.serial, live.bundle.revision) == (6, live.files.revision)


def test_without_trusted_keys_any_serial_may_follow_any_and_signatures_are_not_looked_at() -> None:
    admit = admission(trust()).admit

    for files in (GOOD, bundle(serial=4), Files(OTHER.content, {"signatures/x.jws": b"\xff"})):
        live = admit(files)
        assert (live.bundle.revision, live.signed_by) == (files.revision, ())


def test_nothing_of_a_bundle_that_nobody_vouches_for_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object) -> object:
        raise AssertionError("parsed")

    monkeypatch.setattr("gateway.policy.live.load_files", parse)
    with pytest.raises(PolicyUntrusted):
        admission(trust(ANN)).admit(signed(bundle(), EVE))


def test_files_swapped_after_they_were_read_do_not_come_into_force(tmp_path: Path) -> None:
    directory = write(GOOD, tmp_path / "bundle")
    read = read_directory(directory)
    write(signed(bundle(serial=99), EVE), directory)

    live = admission(trust(ANN)).admit(read)
    assert (live.bundle.revision, live.bundle.serial) == (GOOD.revision, 5)


def test_files_swapped_while_they_are_verified_do_not_come_into_force(tmp_path: Path) -> None:
    directory = write(GOOD, tmp_path / "bundle")
    read = read_directory(directory)
    found = admission(trust(ANN))

    def swap(files: Files, _: object) -> tuple[()]:
        write(bundle(serial=99), directory)
        assert files is read  # what is proven is what was read, too
        return ()

    live = type(found)(found.trust, found.serials, swap, found.require_usable).admit(read)
    assert live.bundle.serial == 5
    assert live.files.content == GOOD.content


def test_every_file_that_decides_anything_is_under_the_signature(tmp_path: Path) -> None:
    """Each file that compiling looks at is in `content`: with one less, the revision is another."""
    looked_at: set[str] = set()

    class Watched(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            looked_at.add(name)
            return super().__getitem__(name)

    files = Files(Watched(GOOD.content), GOOD.signatures)
    compile_files(files)

    assert looked_at == GOOD.content.keys()
    assert not any(name.startswith("signatures/") for name in looked_at)


def test_a_pack_in_force_is_under_the_signature(tmp_path: Path) -> None:
    content = dict(GOOD.content)
    content["adopted/strict/pack.yaml"] = (
        b"name: strict\nversion: 1\ntitle: t\nnotice: n\nneeds: {}\n"  # whatever it says, it counts
    )
    changed = Files(content, GOOD.signatures)

    with pytest.raises(PolicyUntrusted) as raised:
        trust(ANN).require(changed)
    assert raised.value.reason == "signature"


def test_a_failing_example_is_told_of_a_signed_bundle_as_of_any(tmp_path: Path) -> None:
    with pytest.raises(PolicyTestsFailed):
        admission(trust(ANN)).admit(signed(bundle(more=NO_CLOUD), ANN))


def test_a_signature_beside_a_signature_of_an_earlier_revision_is_enough() -> None:
    files = Files(OTHER.content, {**OTHER.signatures, "signatures/old.jws": signature(GOOD, ANN, 5)})

    assert admission(trust(ANN)).admit(files).signed_by == (ANN.kid,)
