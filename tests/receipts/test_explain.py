"""A receipt in words, for somebody who has not read the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.base import Sealed
from gateway.receipts.explain import Explained, explain
from gateway.receipts.receipt import AuditClaim, Receipt
from gateway.receipts.verify import OpenedReceipt

from .samples import CACHED, FULL, REFUSED

DOCS = Path(__file__).parents[2] / "docs" / "receipts.md"


def rows(receipt: Receipt, *, demo: bool = False) -> dict[str, Explained]:
    return {row.claim: row for row in explain(OpenedReceipt(receipt, "the-kid", demo))}


def test_an_answer_is_told_claim_by_claim() -> None:
    told = rows(FULL)

    assert told["outcome"] == Explained(
        "outcome", "answered", "a backend inferred the answer, and it was delivered whole"
    )
    assert told["policy.rules"] == Explained(
        "policy.rules", "infer-anywhere, personal-stays", "the rules that decided"
    )
    assert told["attempts[1]"] == Explained("attempts[1]", "local-engine: saturated", "this place failed")
    assert told["attempts[1].place"].meaning == (
        "a place of kind engine in DE (DE, EEA, EU), run by the gateway's own operator; "
        "as the operator declares it"
    )
    assert told["attempts[2].place"].meaning == (
        "a place of kind bedrock in DE (DE, EEA, EU), run by aws; "
        "follows from the host that the request was signed for"
    )
    assert told["attempts[2].host"].meaning == (
        "the host that was connected to and signed for, in region eu-central-1"
    )
    assert told["attempts[2].upstream_request_id"].value == "5d0e3f1c"
    assert told["usage"].value == "11 + 22 (3 reasoning, 4 prompt tokens reused)"
    assert told["audit"].value == "0123456789abcdef / 41 / " + "c" * 64
    assert told["audit.end"] == Explained(
        "audit.end",
        "43 / " + "d" * 64,
        "the record in which it ended: its hash vouches for all records of the chain before it",
    )
    assert told["nonce"].meaning == "the client's own mark: the receipt was made after it had been sent"
    assert told["emulated"].meaning == "no emulator took part"
    assert told["demo"].meaning == "not signed with a demo key"


def test_a_cached_answer_tells_where_it_came_from() -> None:
    told = rows(CACHED)

    assert told["attempts"].meaning == "the request was sent to no backend"
    assert told["cache.origin.receipt"] == Explained(
        "cache.origin.receipt",
        "rcpt_" + "9" * 32,
        "the receipt of the answer's first delivery; "
        "made 2026-11-22T10:00:00.000000Z at bedrock-frankfurt in DE, run by aws",
    )
    assert told["emulated"] == Explained("emulated", "yes", "an emulator stood in for a real backend")


def test_what_a_refusal_lacks_is_said_to_be_lacking() -> None:
    told = rows(REFUSED)

    assert told["tenant"] == Explained("tenant", "-", "the caller was not known")
    assert told["request.sha256"].meaning == "the request was refused before its body had been read"
    assert (told["usage"].value, told["audit"].value, told["nonce"].value) == ("-", "-", "-")
    assert told["audit.end"] == Explained("audit.end", "-", "the audit holds no record of the request")
    assert told["nonce"].meaning == "the client sent no mark of its own"


def test_a_refusal_has_one_record_and_says_so() -> None:
    audit = AuditClaim.of("0123456789abcdef", Sealed(41, "c" * 64), Sealed(41, "c" * 64))

    told = rows(replace(FULL, audit=audit))

    assert told["audit"].value == "0123456789abcdef / 41 / " + "c" * 64
    assert told["audit.end"] == Explained("audit.end", "-", "no record of its end beside that one")


def test_a_demo_key_and_an_emulator_are_named() -> None:
    attempts = (replace(FULL.attempts[1], emulated=True),)

    told = rows(replace(FULL, attempts=attempts), demo=True)
    assert told["demo"].meaning == "signed with a demo key: it proves nothing to anybody"
    assert told["attempts[1].emulated"].meaning == "an emulator stood in for this place"


def test_a_streams_digest_is_explained_as_such() -> None:
    streamed = replace(FULL, answer=replace(FULL.answer, form="stream"))

    assert rows(streamed)["answer.form"].meaning == (
        "a stream: the digest is over the events' data up to the receipt"
    )


IN_PROSE = {"self", "declared", "derived"}  # "run by the gateway's own operator", "as the operator declares"


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)


@pytest.mark.parametrize("receipt", [FULL, CACHED, REFUSED], ids=lambda receipt: str(receipt.outcome))
def test_no_value_of_a_receipt_is_left_untold(receipt: Receipt) -> None:
    told = " ".join(f"{row.value} {row.meaning}" for row in rows(receipt).values())

    assert [value for value in leaves(asdict(receipt)) if value not in told and value not in IN_PROSE] == []


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    for name, item in value.items():
        inner = item[0] if isinstance(item, list | tuple) and item and isinstance(item[0], dict) else item
        path = f"{prefix}{name}{'[]' if inner is not item else ''}"
        if isinstance(inner, dict) and name != "redacted":  # its keys are kinds, not claims
            yield from paths(inner, f"{path}.")
        else:
            yield path


def test_every_claim_is_documented_and_no_other() -> None:
    claims = {*paths(asdict(FULL)), *paths(asdict(CACHED)), "v", "demo", "emulated"} - {
        "attempts",
        "cache.origin",
    }
    documented = set(re.findall(r"^\| `([\w.\[\]]+)` \|", DOCS.read_text(), re.MULTILINE))

    assert documented == claims
