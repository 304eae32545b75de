"""How receipts travel, and how they are found again in what a client saved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway.receipts.delivery import (
    HEADER_BYTES_MAX,
    NoReceipt,
    find_receipt,
    header_value,
    stream_comment,
)

from .samples import FULL, SIGNER

JWS = SIGNER.sign(FULL)


def test_a_receipt_up_to_4096_bytes_is_the_header_and_a_longer_one_its_id() -> None:
    assert header_value("rcpt_1", "x" * HEADER_BYTES_MAX) == "x" * 4096
    assert header_value("rcpt_1", "x" * (HEADER_BYTES_MAX + 1)) == "rcpt_1"


def test_a_receipt_with_three_attempts_fits_the_header() -> None:
    assert len(SIGNER.sign(replace(FULL, attempts=(FULL.attempts[1],) * 3))) <= HEADER_BYTES_MAX


def test_on_a_stream_it_is_a_comment_that_readers_of_events_skip() -> None:
    assert stream_comment("a.b.c") == b": x-douane-receipt: a.b.c\n\n"


@pytest.mark.parametrize(
    "saved",
    [
        JWS,
        f"  {JWS}\n",
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-douane-receipt: {JWS}\r\n\r\n{{}}",
        f"HTTP/1.1 200 OK\nX-Douane-Receipt: {JWS}\n",
        f"data: {{}}\n\n: x-douane-receipt: {JWS}\n\ndata: [DONE]\n\n",
        json.dumps({"id": "rcpt_1", "object": "receipt", "jws": JWS}),
    ],
    ids=["alone", "blanks", "headers", "other case", "stream", "fetched"],
)
def test_it_is_found_in_whatever_a_client_saves(saved: str) -> None:
    assert find_receipt(saved.encode()) == JWS


def test_the_same_receipt_twice_is_one_receipt() -> None:
    assert find_receipt(f"x-douane-receipt: {JWS}\nx-douane-receipt: {JWS}\n".encode()) == JWS


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ("", "there is no receipt in the input"),
        ("hello", "there is no receipt in the input"),
        ('{"error":{}}', "there is no receipt in the input"),
        ('{"jws":1}', "there is no receipt in the input"),
        ("data: {}\n\ndata: [DONE]\n\n", "there is no receipt in the input"),
        ("\x00\x1b", "there is no receipt in the input"),
        (f"x-douane-receipt: {JWS}\nx-douane-receipt: a.b.c\n", "more than one receipt"),
        ("rcpt_" + "0" * 32, "fetch the receipt itself from `/v1/receipts/rcpt_00"),
        ("x-douane-receipt: rcpt_" + "0" * 32 + "\n", "is a receipt's id"),
    ],
)
def test_where_there_is_none_it_says_so(saved: str, message: str) -> None:
    with pytest.raises(NoReceipt, match=message):
        find_receipt(saved.encode())
