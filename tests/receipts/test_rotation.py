"""Another key takes over: at every moment one whole key signs, and what was signed before stays good."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.receipt import receipt
from gateway.receipts.keys import SigningKeyInvalid, create_key, load_retired, load_signer, load_signing_key
from gateway.receipts.rotation import RECEIPT_KEY, RETIRED_KEYS, rotate_key
from gateway.receipts.signer import ReceiptSigner
from gateway.receipts.verify import ReceiptNotGenuine, verify_receipt

from .samples import FULL, key


def signer_of(state: Path) -> ReceiptSigner:
    return load_signer(state / RECEIPT_KEY, state / RETIRED_KEYS)


def pinned(signer: ReceiptSigner) -> dict[str, Any]:
    return {public.thumbprint: public for public in signer.published}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    create_key(tmp_path / RECEIPT_KEY)
    return tmp_path


def test_the_new_key_signs_and_the_old_one_still_verifies(state: Path) -> None:
    before = signer_of(state)
    old = before.sign(FULL)

    rotated = rotate_key(state)

    after = signer_of(state)
    assert (rotated.before, rotated.after) == (before.kid, after.kid)
    assert before.kid != after.kid
    assert [one["kid"] for one in after.jwks()["keys"]] == [after.kid, before.kid]
    for jws in (old, after.sign(FULL)):
        assert verify_receipt(jws, pinned(after)).receipt == FULL
    with pytest.raises(ReceiptNotGenuine):
        verify_receipt(after.sign(FULL), pinned(before))


def test_rotating_again_keeps_every_key_that_ever_signed(state: Path) -> None:
    kids = [signer_of(state).kid, *(rotate_key(state).after for _ in range(3))]

    published = [one["kid"] for one in signer_of(state).jwks()["keys"]]
    assert published[0] == kids[-1]
    assert sorted(published) == sorted(kids)


def test_only_public_keys_are_retired_and_nothing_else_is_left(state: Path) -> None:
    rotated = rotate_key(state)

    assert sorted(path.name for path in state.iterdir()) == [RECEIPT_KEY, RETIRED_KEYS]
    assert list((state / RETIRED_KEYS).iterdir()) == [rotated.retired]
    assert b"PRIVATE" not in rotated.retired.read_bytes()
    assert stat.S_IMODE((state / RECEIPT_KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE((state / RETIRED_KEYS).stat().st_mode) & 0o022 == 0


def test_a_demo_key_is_followed_by_a_demo_key(tmp_path: Path) -> None:
    create_key(tmp_path / RECEIPT_KEY, demo=True)

    rotated = rotate_key(tmp_path)

    assert rotated.before.startswith("demo-")
    assert rotated.after.startswith("demo-")
    assert [public.demo for public in load_retired(tmp_path / RETIRED_KEYS)] == [True]


class Crash(BaseException):
    """The machine stops here: nothing that a program would do on an error is done."""


def crashing(number: int, do: Callable[..., Any], before: bool, count: list[int]) -> Callable[..., Any]:
    def step(*arguments: Any, **named: Any) -> Any:
        count.append(1)
        if len(count) == number and before:
            raise Crash
        done = do(*arguments, **named)
        if len(count) == number:
            raise Crash
        return done

    return step


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_crash_at_any_step_leaves_a_key_that_signs_and_all_that_signed(
    state: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    steps, signed = 0, [signer_of(state).sign(FULL)]
    while True:
        steps += 1
        count: list[int] = []
        with monkeypatch.context() as patch:
            for name in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
                patch.setattr(os, name, crashing(steps, getattr(os, name), before, count))
            with contextlib.suppress(Crash):
                rotate_key(state)
        if len(count) < steps:
            break
        now = signer_of(state)
        signed.append(now.sign(FULL))
        for jws in signed:
            assert verify_receipt(jws, pinned(now)).receipt == FULL
    assert steps > 10

    now = signer_of(state)
    assert sorted(path.name for path in state.iterdir()) == [RECEIPT_KEY, RETIRED_KEYS]
    for jws in signed:
        assert verify_receipt(jws, pinned(now)).receipt == FULL


def test_two_rotations_do_not_meet(state: Path) -> None:
    held = os.open(state, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    before = signer_of(state).kid

    with pytest.raises(SigningKeyInvalid, match="another rotation in `.*` is under way; wait"):
        rotate_key(state)
    os.close(held)

    assert signer_of(state).kid == before
    assert rotate_key(state).before == before


def test_a_key_that_something_else_looks_after_is_not_replaced(tmp_path: Path) -> None:
    create_key(tmp_path / "mounted" / "key.pem")
    (tmp_path / RECEIPT_KEY).symlink_to(tmp_path / "mounted" / "key.pem")

    with pytest.raises(SigningKeyInvalid, match="is a symlink, so something else looks after the key"):
        rotate_key(tmp_path)

    assert load_signing_key(tmp_path / RECEIPT_KEY).kid  # it may be read through one


def test_keys_that_the_gateway_would_not_take_are_not_rotated(state: Path) -> None:
    before = signer_of(state).kid
    (state / RETIRED_KEYS).mkdir()
    (state / RETIRED_KEYS / "bad.pem").write_text("hello")

    with pytest.raises(SigningKeyInvalid, match=r"`.*bad\.pem` holds no public key"):
        rotate_key(state)
    (state / RETIRED_KEYS / "bad.pem").unlink()
    (state / RECEIPT_KEY).chmod(0o644)
    with pytest.raises(SigningKeyInvalid, match="has mode 0644"):
        rotate_key(state)

    (state / RECEIPT_KEY).chmod(0o600)
    assert signer_of(state).kid == before


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
@pytest.mark.parametrize("what", ["directory", "file"])
def test_retired_keys_that_others_can_write_are_refused(state: Path, mode: int, what: str) -> None:
    retired = state / RETIRED_KEYS
    retired.mkdir(mode=0o755)
    (retired / "old.pem").write_bytes(key(2).public.pem())
    path = retired if what == "directory" else retired / "old.pem"
    path.chmod(mode)

    with pytest.raises(SigningKeyInvalid, match=f"`{path}` has mode {mode:04o}.*run `chmod go-w {path}`"):
        signer_of(state)

    path.chmod(mode & ~0o022)
    assert len(signer_of(state).published) == 2


def douane(*arguments: object) -> Result:
    return CliRunner().invoke(receipt, [str(one) for one in arguments], catch_exceptions=False)


def test_the_command_says_both_ids_and_where_the_old_public_half_is(state: Path) -> None:
    before = signer_of(state)
    jws = before.sign(FULL)

    result = douane("rotate", "--state-dir", state)

    after = signer_of(state)
    kept = state / RETIRED_KEYS / f"key-{before.kid}.pem"
    assert (result.exit_code, result.output) == (
        0, f"before {before.kid} (public half kept in {kept})\nafter  {after.kid}\n",
    )  # fmt: skip
    (state / "jwks.json").write_text(json.dumps(after.jwks()))
    assert douane("verify", "--key", state / "jwks.json", jws).exit_code == 0
    assert douane("verify", "--key", kept, jws).exit_code == 0


def test_the_command_without_a_key_exits_3_and_says_how_to_make_one(tmp_path: Path) -> None:
    result = douane("rotate", "--state-dir", tmp_path)

    assert result.exit_code == 3
    assert "make one with `douane receipt new-key" in result.output
    assert douane("rotate", "--state-dir", tmp_path / "gone").exit_code == 3
