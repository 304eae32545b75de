"""Whose signatures count, and how many different people must have signed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.policy.problems import PolicyUntrusted
from gateway.policy.source.directory import Files
from gateway.policy.trust import NO_TRUST, Trust, load_trust
from gateway.receipts.jwk import PublicKey
from gateway.receipts.keys import SigningKeyInvalid, create_key
from tests.policy_signing.signing import ANN, BOB, EVE, bundle, jwk, pem, signature, signed, trust

FILES = bundle()


def refused(asked: Trust, files: Files, serial: int | None = None) -> PolicyUntrusted:
    with pytest.raises(PolicyUntrusted) as raised:
        asked.require(files, serial)
    return raised.value


def test_without_trusted_keys_nothing_is_asked() -> None:
    assert NO_TRUST.require(FILES) == ()
    assert NO_TRUST.require(Files(FILES.content, {"signatures/x.jws": b"garbage"})) == ()


def test_a_bundle_that_a_trusted_key_signed_is_trusted_and_says_by_whom() -> None:
    assert trust(ANN).require(signed(FILES, ANN)) == (ANN.kid,)
    assert trust(ANN, BOB).require(signed(FILES, ANN, BOB), 1) == tuple(sorted((ANN.kid, BOB.kid)))


def test_an_unsigned_bundle_is_refused_and_told_how_to_be_signed() -> None:
    error = refused(trust(ANN), FILES)

    assert error.reason == "unsigned"
    assert str(error) == (
        "signatures/: the bundle is not signed, and only signed ones are loaded here; "
        "sign it with `douane policy sign DIR --key PATH`"
    )


def test_a_bundle_that_only_a_stranger_signed_is_refused_naming_the_key() -> None:
    error = refused(trust(ANN), signed(FILES, EVE))

    assert error.reason == "signature"
    assert [problem.file for problem in error.problems] == ["signatures/", f"signatures/{EVE.kid}.jws"]
    assert "no trusted key has signed the bundle as it is" in str(error)
    assert f"it is by the key `{EVE.kid}`, which is not among the trusted ones" in str(error)


def test_what_does_not_count_harms_nothing_beside_what_does() -> None:
    others = {"signatures/garbage.jws": b"\0", "signatures/stranger.jws": signature(FILES, EVE)}
    files = Files(FILES.content, {**signed(FILES, ANN).signatures, **others})

    assert trust(ANN).require(files) == (ANN.kid,)


def test_four_eyes_are_two_different_keys() -> None:
    asked = trust(ANN, BOB, needed=2)
    error = refused(asked, signed(FILES, ANN))

    assert error.reason == "too_few_signatures"
    assert f"signed by 1 trusted key of 2 needed: `{ANN.kid}`" in str(error)
    assert len(asked.require(signed(FILES, ANN, BOB))) == 2


def test_the_same_key_under_two_file_names_is_one_pair_of_eyes() -> None:
    twice = {"signatures/ann.jws": signature(FILES, ANN), "signatures/bob.jws": signature(FILES, ANN)}

    assert refused(trust(ANN, BOB, needed=2), Files(FILES.content, twice)).reason == "too_few_signatures"


def test_a_stranger_is_no_second_pair_of_eyes() -> None:
    error = refused(trust(ANN, BOB, needed=2), signed(FILES, ANN, EVE))

    assert error.reason == "too_few_signatures"
    assert EVE.kid in str(error)


def test_one_key_in_two_files_and_two_forms_is_one_key(tmp_path: Path) -> None:
    files = (pem(ANN, tmp_path / "ann.pem"), jwk(ANN, tmp_path / "bob.json"))

    assert len(load_trust(files, 1).keys) == 1
    with pytest.raises(ValueError, match="2 signatures of different keys are needed and 1 key is trusted"):
        load_trust(files, 2)


def test_keys_are_read_from_pem_jwk_and_sets_of_them(tmp_path: Path) -> None:
    both = tmp_path / "both.json"
    both.write_text(json.dumps({"keys": [ANN.public.jwk(), BOB.public.jwk()]}))

    assert load_trust((both,), 2).keys.keys() == {ANN.kid, BOB.kid}
    assert load_trust((pem(ANN, tmp_path / "a.pem"), jwk(BOB, tmp_path / "b.json")), 2).keys.keys() == {
        ANN.kid,
        BOB.kid,
    }
    assert load_trust((), 1) is NO_TRUST


def test_a_demo_key_is_never_trusted(tmp_path: Path) -> None:
    demo = PublicKey(ANN.public.raw, demo=True)
    (tmp_path / "demo.pem").write_bytes(demo.pem())
    (tmp_path / "demo.json").write_text(json.dumps(demo.jwk()))

    for name in ("demo.pem", "demo.json"):
        with pytest.raises(SigningKeyInvalid, match="has a demo key, which anybody may hold"):
            load_trust((tmp_path / name,), 1)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    create_key(tmp_path / "key.pem")

    with pytest.raises(SigningKeyInvalid, match="is a private key; give the public one") as raised:
        load_trust((tmp_path / "key.pem",), 1)
    assert "douane policy public-key PATH" in str(raised.value)


def test_a_trusted_key_that_is_not_there_is_an_error_and_not_a_key_less(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyInvalid, match="cannot be read"):
        load_trust((pem(ANN, tmp_path / "ann.pem"), tmp_path / "gone.pem"), 1)
