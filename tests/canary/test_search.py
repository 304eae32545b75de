"""The search finds what is planted, in each form: else finding nothing would mean nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.canary.tokens import Finding, files_under, new_token, search

TOKEN = "kanari0123456789abcd"


@pytest.mark.parametrize(
    ("form", "planted"),
    [
        ("raw", f"input_value='{TOKEN}'".encode()),
        ("raw", f"KeyError: '{TOKEN.upper()}'".encode()),
        ("raw", json.dumps({"content": f"ä\n{TOKEN}"}).encode()),
        ("raw", quote(f"a b/{TOKEN}").encode()),
        ("raw", repr(f"\x00{TOKEN}é".encode()).encode()),
        ("hex", b"00" + TOKEN.encode().hex().encode()),
        ("hex", b"00" + TOKEN.encode().hex().upper().encode()),
        ("url", "".join(f"%{byte:02X}" for byte in TOKEN.encode()).encode()),
        ("json", "".join(f"\\u{ord(letter):04X}" for letter in TOKEN).encode()),
        ("escaped bytes", "".join(f"\\x{byte:02x}" for byte in TOKEN.encode()).encode()),
        ("utf-16", TOKEN.encode("utf-16")),
        ("reversed", TOKEN[::-1].encode()),
    ],
)
def test_a_planted_token_is_found_in_each_form(form: str, planted: bytes) -> None:
    assert Finding("prompt", form, "log") in search(
        {"prompt": TOKEN}, {"log": b"before " + planted + b" after"}
    )


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("after", range(4))
def test_a_planted_token_is_found_in_base64_at_each_alignment(
    encode: object, before: int, after: int
) -> None:
    assert callable(encode)
    planted = encode(b"\xff" * before + TOKEN.encode() + b"\xfe" * after)

    (finding,) = search({"prompt": TOKEN}, {"log": b'{"body":"' + planted + b'"}'})

    assert finding == Finding("prompt", f"base64 at {before % 3}", "log")


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 100 + new_token().encode())

    assert search({"prompt": TOKEN}, {**files_under(tmp_path), "empty": b""}) == []


def test_files_are_found_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / f"{TOKEN}.txt").write_bytes(b"")

    assert [one.form for one in search({"name": TOKEN}, files_under(tmp_path))] == ["raw"]


def test_tokens_are_unlike_each_other() -> None:
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(token.isalnum() and len(token) == 20 for token in tokens)
