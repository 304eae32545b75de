"""Anchors: whatever signed thing somebody kept outside, in whatever file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.audit.anchors import AnchorUnusable, read_anchors
from gateway.audit.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from gateway.receipts.jws import Malformed, NotGenuine
from gateway.receipts.signer import ReceiptSigner
from tests.receipts.samples import FULL, PINNED, SIGNER, key

POINT = Checkpoint("0123456789abcdef", 41, "c" * 64, "2026-11-23T15:19:03.123456Z", 1000)
CHECKPOINT = SIGNER.sign_checkpoint(POINT)
RECEIPT = SIGNER.sign(FULL)


def test_a_checkpoint_says_what_was_signed() -> None:
    assert verify_checkpoint(CHECKPOINT, PINNED) == POINT == read_checkpoint(CHECKPOINT)


def test_a_checkpoint_by_another_key_is_not_believed() -> None:
    with pytest.raises(NotGenuine, match="not among the pinned"):
        verify_checkpoint(ReceiptSigner(key(2)).sign_checkpoint(POINT), PINNED)


def test_a_receipt_never_passes_for_a_checkpoint() -> None:
    with pytest.raises(Malformed, match="its header's `typ` is not `douane-checkpoint"):
        verify_checkpoint(RECEIPT, PINNED)


@pytest.mark.parametrize("position", range(0, len(CHECKPOINT), 7))
def test_any_changed_character_of_a_checkpoint_is_found(position: int) -> None:
    letter = "A" if CHECKPOINT[position] != "A" else "B"
    changed = CHECKPOINT[:position] + letter + CHECKPOINT[position + 1 :]

    with pytest.raises((Malformed, NotGenuine)):
        verify_checkpoint(changed, PINNED)


def test_checkpoints_and_receipts_are_found_in_files_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a-checkpoint.txt").write_text(CHECKPOINT + "\n")
    headers = f"HTTP/1.1 200 OK\r\nx-douane-receipt: {RECEIPT}\r\n\r\n"
    (tmp_path / "kept" / "b-headers.txt").write_text(headers)
    stream = f'data: {{"x":1}}\n\n: x-douane-receipt: {RECEIPT}\n\ndata: [DONE]\n\n'
    (tmp_path / "kept" / "c-stream.txt").write_text(stream)

    anchors = read_anchors([tmp_path / "kept"], PINNED)

    receipt = f"the receipt {FULL.id}"
    assert [(Path(one.file).name, one.line, one.what) for one in anchors] == [
        ("a-checkpoint.txt", 1, "a checkpoint"),
        *[("b-headers.txt", 2, receipt)] * 2,
        *[("c-stream.txt", 3, receipt)] * 2,
    ]
    # A receipt names the record in which its request began, and the one in which it ended.
    assert FULL.audit is not None
    assert FULL.audit.end is not None
    end = ("0123456789abcdef", FULL.audit.end.sequence, FULL.audit.end.hash)
    assert {(one.replica, one.sequence, one.hash) for one in anchors} == {
        ("0123456789abcdef", 41, "c" * 64), end,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nothing of the kind", "holds no anchor"),
        (SIGNER.sign(replace(FULL, audit=None)), "name no record of the audit"),
        (ReceiptSigner(key(2)).sign(FULL), "cannot be an anchor: it names the key"),
        (CHECKPOINT[:-8] + "AAAAAAAA", "cannot be an anchor: the signature does not fit"),
    ],
)
def test_what_is_no_anchor_is_refused_with_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "kept.txt"
    path.write_text(content)

    with pytest.raises(AnchorUnusable, match=reason):
        read_anchors([path], PINNED)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnchorUnusable, match="cannot be read: No such file"):
        read_anchors([tmp_path / "none.txt"], PINNED)
