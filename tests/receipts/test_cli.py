"""`douane receipt`, as a client, an auditor and an operator run it."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.receipt import receipt
from gateway.receipts.delivery import stream_comment
from gateway.receipts.digest import transcript_digest
from gateway.receipts.keys import load_signing_key
from gateway.receipts.signer import ReceiptSigner

from .samples import ANSWER, FULL, KEY, REQUEST, SIGNER, key

JWS = SIGNER.sign(FULL)


def douane(*arguments: object, stdin: bytes | None = None) -> Result:
    runner = CliRunner(env={"COLUMNS": "240"})
    return runner.invoke(receipt, [str(one) for one in arguments], input=stdin, catch_exceptions=False)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "pinned.pem"
    path.write_bytes(KEY.public.pem())
    return path


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def document(result: Result) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.output)
    return parsed


def test_a_genuine_receipt_exits_0_and_is_explained(pem: Path) -> None:
    result = douane("verify", "--key", pem, JWS)

    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[-1] == "verified: signed by a pinned key"
    assert lines[-2] == "request: not checked   answer: not checked   nonce: not checked"
    assert ["tenant", "acme-de", "who", "asked"] in [line.split() for line in lines]


def test_a_receipt_can_come_from_a_file_from_standard_input_or_with_a_set_of_keys(
    pem: Path, tmp_path: Path
) -> None:
    file = saved(tmp_path / "headers", f"HTTP/1.1 200 OK\r\nx-douane-receipt: {JWS}\r\n".encode())
    keys = saved(tmp_path / "jwks.json", json.dumps(SIGNER.jwks()).encode())

    assert douane("verify", "--key", keys, file).exit_code == 0
    assert douane("verify", "--key", pem, "-", stdin=JWS.encode()).exit_code == 0
    assert douane("verify", "--key", pem, stdin=JWS.encode() + b"\n").exit_code == 0


def test_request_and_answer_are_checked_against_the_digests(pem: Path, tmp_path: Path) -> None:
    request, answer = saved(tmp_path / "request", REQUEST), saved(tmp_path / "answer", ANSWER)

    result = douane("verify", "--key", pem, JWS, "--request", request, "--answer", answer, "--format", "json")

    assert result.exit_code == 0
    assert document(result) == {
        "verified": True,
        "problem": None,
        "kid": KEY.kid,
        "demo": False,
        "emulated": False,
        "request": "matches",
        "answer": "matches",
        "nonce": "not checked",
        "receipt": json.loads(json.dumps(asdict(FULL))),
    }


@pytest.mark.parametrize("which", ["request", "answer"])
def test_another_request_or_answer_exits_1(pem: Path, tmp_path: Path, which: str) -> None:
    other = saved(tmp_path / "other", b"{}")

    result = douane("verify", "--key", pem, JWS, f"--{which}", other)

    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == f"the receipt is genuine, but it is not about this {which}"


@pytest.mark.parametrize("keys", [True, False])
def test_the_nonce_that_was_sent_is_checked(pem: Path, keys: bool) -> None:
    pinned = ("--key", pem) if keys else ()

    same = douane("verify", *pinned, JWS, "--nonce", FULL.nonce)
    other = douane("verify", *pinned, JWS, "--nonce", "another-mark-of-mine")

    assert (same.exit_code, other.exit_code) == ((0, 1) if keys else (3, 3))
    assert "request: not checked   answer: not checked   nonce: matches" in same.output
    assert "nonce: differs" in other.output
    if keys:
        assert other.output.splitlines()[-1] == "the receipt is genuine, but it is not about this nonce"


def test_a_receipt_without_a_nonce_matches_none(pem: Path) -> None:
    jws = SIGNER.sign(replace(FULL, nonce=None))

    assert douane("verify", "--key", pem, jws, "--nonce", "").exit_code == 1


def test_a_saved_stream_holds_receipt_and_answer_at_once(pem: Path, tmp_path: Path) -> None:
    events = b'data: {"choices":[]}\n\ndata: {"usage":{}}\n\n'
    claim = replace(FULL.answer, form="stream", sha256=transcript_digest(events))
    jws = SIGNER.sign(replace(FULL, answer=claim))
    stream = saved(tmp_path / "stream", events + stream_comment(jws) + b"data: [DONE]\n\n")

    result = douane("verify", "--key", pem, stream, "--answer", stream, "--format", "json")

    assert (result.exit_code, document(result)["answer"]) == (0, "matches")


def test_without_a_pinned_key_it_explains_but_does_not_verify() -> None:
    result = douane("verify", JWS)
    as_json = document(douane("verify", JWS, "--format", "json"))

    assert result.exit_code == 3
    assert result.output.splitlines()[-1] == (
        "not verified: no key was pinned; give the gateway's public key with `--key`, "
        "from a source that you trust (not from the receipt)"
    )
    assert "verified: signed by" not in result.output
    assert (as_json["verified"], as_json["receipt"]["tenant"]) == (False, "acme-de")


def test_another_key_exits_1_and_shows_nothing_of_the_receipt(tmp_path: Path) -> None:
    pem = saved(tmp_path / "other.pem", key(2).public.pem())

    result = douane("verify", "--key", pem, JWS)

    assert (result.exit_code, result.output) == (
        1, f"not genuine: it names the key `{KEY.kid}`, which is not among the pinned ones\n",
    )  # fmt: skip


def test_an_altered_receipt_exits_1(pem: Path) -> None:
    altered = SIGNER.sign(replace(FULL, tenant="x")).rsplit(".", 1)[0] + "." + JWS.rsplit(".", 1)[1]

    result = douane("verify", "--key", pem, altered)

    assert (result.exit_code, result.output) == (
        1, f"not genuine: the signature does not fit: it was altered, or not made by `{KEY.kid}`\n",
    )  # fmt: skip


@pytest.mark.parametrize("text", [b"", b"hello", b"rcpt_" + b"0" * 32, b"a.b.c", b"{}"])
def test_what_is_no_receipt_exits_3(pem: Path, text: bytes) -> None:
    result = douane("verify", "--key", pem, "--format", "json", stdin=text)

    assert result.exit_code == 3
    assert document(result) == {
        "verified": False, "problem": document(result)["problem"], "kid": None, "demo": None,
        "emulated": None, "request": "not checked", "answer": "not checked", "nonce": "not checked",
        "receipt": None,
    }  # fmt: skip
    assert "receipt" in document(result)["problem"]


@pytest.mark.parametrize("option", ["--key", "--request", "--answer"])
def test_a_file_that_is_not_there_exits_3_and_is_named(pem: Path, tmp_path: Path, option: str) -> None:
    keys = () if option == "--key" else ("--key", pem)

    result = douane("verify", *keys, JWS, option, tmp_path / "gone")

    assert (result.exit_code, result.output) == (
        3, f"`{tmp_path / 'gone'}` cannot be read: No such file or directory\n",
    )  # fmt: skip


def test_a_demo_receipt_is_genuine_and_warns(tmp_path: Path) -> None:
    demo = key(4, demo=True)
    pem = saved(tmp_path / "demo.pem", demo.public.pem())

    result = douane("verify", "--key", pem, ReceiptSigner(demo).sign(FULL))

    assert result.exit_code == 0
    assert "signed with a demo key: it proves nothing to anybody" in result.output.splitlines()


def test_a_receipt_cannot_steer_the_terminal(pem: Path) -> None:
    steering = SIGNER.sign(replace(FULL, tenant="\x1b]0;verified\x07"))

    for arguments in ((steering,), ("--key", pem, steering)):
        output = douane("verify", *arguments).output
        assert "\x1b" not in output
        assert "\\x1b]0;verified\\x07" in output


def test_a_key_can_be_made_pinned_and_published(tmp_path: Path) -> None:
    made = douane("new-key", tmp_path / "receipt.pem")
    assert made.exit_code == 0
    assert stat.S_IMODE((tmp_path / "receipt.pem").stat().st_mode) == 0o600

    public = douane("public-key", tmp_path / "receipt.pem")
    pem = saved(tmp_path / "public.pem", public.output.encode())
    jws = ReceiptSigner(load_signing_key(tmp_path / "receipt.pem")).sign(FULL)
    assert douane("verify", "--key", pem, jws).exit_code == 0

    (tmp_path / "retired").mkdir()
    saved(tmp_path / "retired" / "old.pem", KEY.public.pem())
    published = douane("jwks", tmp_path / "receipt.pem", "--retired", tmp_path / "retired")
    assert [jwk["kid"] for jwk in document(published)["keys"]] == [made.output.strip(), KEY.kid]
    keys = saved(tmp_path / "jwks.json", published.output.encode())
    assert douane("verify", "--key", keys, jws).exit_code == 0
    assert douane("verify", "--key", keys, JWS).exit_code == 0


def test_a_demo_key_is_made_on_request(tmp_path: Path) -> None:
    result = douane("new-key", tmp_path / "demo.pem", "--demo")

    assert result.output.startswith("demo-")
    assert load_signing_key(tmp_path / "demo.pem").demo


@pytest.mark.parametrize("command", ["public-key", "jwks"])
def test_a_key_that_cannot_be_used_exits_3(tmp_path: Path, command: str) -> None:
    result = douane(command, tmp_path / "gone.pem")

    assert result.exit_code == 3
    assert "there is no key file" in result.output


def test_an_existing_key_is_kept(tmp_path: Path) -> None:
    saved(tmp_path / "receipt.pem", b"precious")

    result = douane("new-key", tmp_path / "receipt.pem")

    assert result.exit_code == 3
    assert (tmp_path / "receipt.pem").read_bytes() == b"precious"
