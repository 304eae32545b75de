"""The digests are over the bytes that the documentation names, and a saved stream gives the same one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.receipts.delivery import stream_comment
from gateway.receipts.digest import StreamDigest, body_digest, transcript_digest

calm = settings(deadline=None, max_examples=150)  # a busy machine is not a bug

CHUNKS = [
    b'{"choices":[{"delta":{"content":"' + text + b'"}}]}' for text in (b"H", "ü\u2028".encode(), b"data: x")
]


def test_a_body_is_digested_byte_for_byte() -> None:
    assert body_digest(b'{"a":1}') == hashlib.sha256(b'{"a":1}').hexdigest()


def test_a_stream_is_digested_as_its_payloads_one_after_the_other() -> None:
    digest = StreamDigest()
    for chunk in CHUNKS:
        digest.add(chunk)

    assert digest.hexdigest() == hashlib.sha256(b"".join(CHUNKS)).hexdigest()
    assert digest.size == sum(map(len, CHUNKS))


def transcript(*, end: bytes = b"\n", done: bool = True, receipt: bool = True) -> bytes:
    events = b"".join(b"data: " + chunk + end + end for chunk in CHUNKS)
    comment = stream_comment("aaa.bbb.ccc").replace(b"\n", end) if receipt else b""
    return events + comment + (b"data: [DONE]" + end + end if done else b"")


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("receipt", [True, False])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_saved_stream_gives_the_same_digest(end: bytes, receipt: bool, done: bool) -> None:
    saved = transcript(end=end, done=done, receipt=receipt)

    assert transcript_digest(saved) == hashlib.sha256(b"".join(CHUNKS)).hexdigest()


def test_keep_alive_comments_count_for_nothing_and_an_error_event_counts() -> None:
    error = b'{"error":{"code":"stream_broken"}}'
    saved = b": keep-alive\n\n" + b"data: " + CHUNKS[0] + b"\n\n: keep-alive\n\ndata: " + error + b"\n\n"

    assert transcript_digest(saved) == hashlib.sha256(CHUNKS[0] + error).hexdigest()


def test_what_comes_after_the_receipt_is_not_what_the_receipt_is_about() -> None:
    assert transcript_digest(transcript() + b"data: {}\n\n") == transcript_digest(transcript())
    assert transcript_digest(transcript(receipt=False) + b"data: {}\n\n") == transcript_digest(transcript())


@calm
@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n"), min_size=1), max_size=8))
def test_any_payloads_without_line_ends_survive_the_transport(payloads: list[str]) -> None:
    encoded = [b"{" + payload.encode("utf-8", "surrogatepass") + b"}" for payload in payloads]
    digest = StreamDigest()
    for payload in encoded:
        digest.add(payload)

    saved = b"".join(b"data: " + payload + b"\n\n" for payload in encoded) + stream_comment("a.b.c")
    assert transcript_digest(saved) == digest.hexdigest()
