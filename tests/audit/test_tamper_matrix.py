"""Attack by attack: what the files alone, the key, and an anchor find. The table stands in docs/audit.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.audit.anchors import read_anchors
from gateway.audit.verify import verify_files
from tests.receipts.samples import PINNED, SIGNER

from .signed import aged, files_of, last_checkpoint, read, relinked, two_replicas, write
from .tamper_matrix import (
    ATTACKS,
    PAGE,
    Attack,
    anchor_at_the_end,
    codes,
    edited,
    outcome_of,
    page_with,
    table,
)


def test_the_table_in_the_documentation_is_what_the_checks_find(capsys: pytest.CaptureFixture[str]) -> None:
    made = table()
    with capsys.disabled():
        sys.stdout.write(f"\n{made}")

    assert page_with(made) == PAGE.read_text()


async def test_chains_that_nobody_touched_are_never_accused(tmp_path: Path) -> None:
    lives = await two_replicas(tmp_path / "audit", SIGNER)
    anchors = tuple(anchor_at_the_end(live) for live in lives)

    for given in ({}, {"pinned": PINNED}, {"pinned": PINNED, "anchors": anchors}):
        assert codes(tmp_path / "audit", **given) == ()
    (first, second) = verify_files([tmp_path / "audit"], PINNED, anchors)
    assert len(first.files) > 2
    assert (first.signed, first.anchored) == (24, 28) == (second.signed, second.anchored)


async def test_a_chain_that_retention_shortened_is_intact(tmp_path: Path) -> None:
    live = await aged(tmp_path / "audit", SIGNER)

    (report,) = verify_files([tmp_path / "audit"], PINNED)

    assert (report.intact, report.first) == (True, read(live)[0]["seq"])
    assert report.first is not None
    assert report.first > 10
    assert read(live)[0]["kind"] == "checkpoint"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_what_one_check_finds_a_stronger_one_finds_as_well(attack: Attack, tmp_path: Path) -> None:
    outcome = await outcome_of(attack, tmp_path)

    assert set(outcome.alone) <= set(outcome.with_key) <= set(outcome.with_anchor)


async def test_only_what_an_anchor_reaches_is_beyond_the_holder_of_the_key(tmp_path: Path) -> None:
    """Every attack but one is found; that one adds what nobody was given a receipt for."""
    missed = []
    for number, attack in enumerate(ATTACKS):
        outcome = await outcome_of(attack, tmp_path / str(number))
        if not outcome.with_anchor:
            missed.append(attack.name)

    assert missed == ["a made-up record added at the end"]


async def test_a_checkpoint_kept_elsewhere_shows_a_cut_and_a_chain_signed_anew(
    tmp_path: Path,
) -> None:
    live, other = await two_replicas(tmp_path / "audit", SIGNER)
    kept = tmp_path / "kept.txt"
    kept.write_text(last_checkpoint(read(live)) + "\n" + last_checkpoint(read(other)) + "\n")
    anchors = read_anchors([kept], PINNED)
    assert codes(tmp_path / "audit", pinned=PINNED, anchors=anchors) == ()

    write(live, relinked(edited("req_3")(read(live)), SIGNER.sign_checkpoint))
    write(other, read(other)[:12])
    by_replica = {one.replica: one for one in verify_files([tmp_path / "audit"], PINNED, anchors)}

    (rewritten,) = by_replica[live.stem].alterations
    assert (rewritten.code, rewritten.message) == (
        "rewritten", f"record 24 is not the one that a checkpoint ({kept}:1) names",
    )  # fmt: skip
    (cut,) = by_replica[other.stem].alterations
    assert (cut.code, cut.message) == (
        "cut", f"the chain ends at record 12, and a checkpoint ({kept}:2) names record 24",
    )  # fmt: skip


async def test_a_missing_replica_is_named_where_the_anchor_stands(tmp_path: Path) -> None:
    live, other = await two_replicas(tmp_path / "audit", SIGNER)
    kept = tmp_path / "kept.txt"
    kept.write_text(f"\n{last_checkpoint(read(live))}\n")
    for path in files_of(live):
        path.unlink()

    reports = verify_files([tmp_path / "audit"], PINNED, read_anchors([kept], PINNED))

    assert [(one.replica, one.intact, one.files == ()) for one in reports] == [
        (live.stem, False, True), (other.stem, True, False),
    ]  # fmt: skip
    (finding,) = reports[0].alterations
    assert (finding.file, finding.line, finding.code) == (str(kept), 2, "missing")
    assert finding.message == f"no file of replica `{live.stem}` is there; a checkpoint names its record 24"


async def test_a_change_after_the_last_anchor_needs_the_key_and_is_found_by_the_next_anchor(
    tmp_path: Path,
) -> None:
    live, _ = await two_replicas(tmp_path / "audit", SIGNER)
    records = read(live)
    early = tmp_path / "early.txt"
    early.write_text(next(one["jws"] for one in records if one["kind"] == "checkpoint"))
    late = tmp_path / "late.txt"
    late.write_text(last_checkpoint(records))

    write(live, relinked(edited("req_8")(records), SIGNER.sign_checkpoint))

    assert codes(tmp_path / "audit", pinned=PINNED, anchors=read_anchors([early], PINNED)) == ()
    assert codes(tmp_path / "audit", pinned=PINNED, anchors=read_anchors([late], PINNED)) == ("rewritten",)
