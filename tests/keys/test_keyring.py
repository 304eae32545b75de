"""Keys of tenants: what opens, what does not, and what the key file must be."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from gateway.tenant_keys import KeyFileInvalid, TenantKeys, Unsealable
from hypothesis import given, settings
from hypothesis import strategies as st

KEYS = TenantKeys(bytes(range(32)))
OTHER_MASTER = TenantKeys(bytes(32))


@settings(deadline=None)  # a busy machine decides nothing
@given(st.text(), st.binary(), st.binary())
def test_what_is_sealed_opens_again(tenant: str, aad: bytes, plaintext: bytes) -> None:
    sealed = KEYS.seal(tenant, aad, plaintext)
    assert KEYS.open_(tenant, aad, sealed) == plaintext
    assert len(sealed) == len(plaintext) + 1 + 12 + 16


def test_the_same_text_is_never_sealed_alike() -> None:
    assert KEYS.seal("acme", b"", b"text") != KEYS.seal("acme", b"", b"text")


def test_neither_another_tenant_nor_another_name_nor_another_master_opens_it() -> None:
    sealed = KEYS.seal("acme", b"name", b"text")
    for keys, tenant, aad in (
        (KEYS, "globex", b"name"),
        (KEYS, "acme", b"other"),
        (OTHER_MASTER, "acme", b"name"),
    ):
        with pytest.raises(
            Unsealable, match="^the sealed value does not open with this tenant's key and name$"
        ):
            keys.open_(tenant, aad, sealed)


@settings(deadline=None)  # a busy machine decides nothing
@given(st.integers(min_value=0, max_value=8 * (4 + 29) - 1))
def test_one_flipped_bit_anywhere_is_noticed(bit: int) -> None:
    sealed = bytearray(KEYS.seal("acme", b"name", b"text"))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unsealable):
        KEYS.open_("acme", b"name", bytes(sealed))


@settings(deadline=None)  # a busy machine decides nothing
@given(st.binary(max_size=40))
def test_bytes_that_nobody_sealed_do_not_open(data: bytes) -> None:
    with pytest.raises(Unsealable):
        KEYS.open_("acme", b"", data)


@settings(deadline=None)  # a busy machine decides nothing
@given(st.tuples(st.text(), st.binary()), st.tuples(st.text(), st.binary()))
def test_commitments_differ_by_tenant_and_by_data(one: tuple[str, bytes], two: tuple[str, bytes]) -> None:
    assert (KEYS.commit(*one) == KEYS.commit(*two)) is (one == two)


def test_commitments_and_salts_are_the_same_wherever_the_master_key_is() -> None:
    """Pinned: other values would orphan every entry and every label that is stored."""
    again = TenantKeys(bytes(range(32)))
    assert KEYS.commit("acme", b"data") == again.commit("acme", b"data")
    assert KEYS.commit("acme", b"data") == PINNED_COMMITMENT
    assert KEYS.salt("acme") == PINNED_SALT
    assert KEYS.salt("globex") != KEYS.salt("acme") != OTHER_MASTER.salt("acme")


def test_a_new_key_file_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    created = TenantKeys.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert TenantKeys.from_file(path).salt("acme") == created.salt("acme")


def test_a_key_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    TenantKeys.create(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        TenantKeys.create(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    TenantKeys.create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileInvalid) as refused:
        TenantKeys.from_file(path)
    assert str(refused.value) == (
        f"the master key `{path}` has mode `{mode:04o}`: others can read it; "
        f"run `chmod 600 {path}` if nobody has, else make a new one"
    )


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(b"k" * size)
    path.chmod(0o600)
    with pytest.raises(
        KeyFileInvalid, match="does not hold exactly 32 bytes; write raw random bytes, not text"
    ):
        TenantKeys.from_file(path)


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with pytest.raises(KeyFileInvalid) as refused:
        TenantKeys.from_file(path)
    assert str(refused.value) == (
        f"there is no master key at `{path}`; make one with `douane init --state-dir {tmp_path}`"
    )


def test_keys_do_not_show_themselves() -> None:
    assert repr(KEYS) == "TenantKeys(…)"


PINNED_COMMITMENT = "3d2eaa8176b96947db37aff24c5a41e3057d9561e6e7c84a629d757dfc13edc5"
PINNED_SALT = "d6f68710b3c839ecbd04cb7783721016"
