"""Keys of tenants: what opens, what does not, by either wrapping."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws

from gateway.clock import ManualClock
from gateway.errors import KeysUnavailable, TenantErased
from gateway.keys.keyring import TenantKeys, Unsealable
from gateway.keys.kms import KmsWrapping, kms_client
from gateway.keys.shelf import FileShelf, Kept, MemoryShelf
from gateway.keys.wrapping import MasterKey, Unwrappable, Wrapping, WrappingUnavailable

KEYS = TenantKeys.apart(bytes(range(32)))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def remembered(_: str) -> None:
    """A store that knows nothing."""


class Counted:
    """A client of KMS whose calls are counted, and that fails when told."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.calls: list[str] = []
        self.down = False

    def encrypt(self, **given: Any) -> Any:
        return self._call("Encrypt", self._inner.encrypt, given)

    def decrypt(self, **given: Any) -> Any:
        return self._call("Decrypt", self._inner.decrypt, given)

    def _call(self, name: str, call: Any, given: Any) -> Any:
        self.calls.append(name)
        if self.down:
            raise ClientError({"Error": {"Code": "KMSInternalException", "Message": "secret text"}}, name)
        return call(**given)


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Counted, str]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        session = boto3.Session()
        key_id = session.client("kms", region_name="eu-central-1").create_key()["KeyMetadata"]["KeyId"]
        yield Counted(kms_client(session, "eu-central-1")), key_id


@pytest.fixture(params=["file", "kms"])
def wrapping(request: pytest.FixtureRequest) -> Wrapping:
    if request.param == "file":
        return MasterKey(bytes(range(32)))
    return KmsWrapping(*request.getfixturevalue("kms"))


@pytest.fixture
def shelf(tmp_path: Path) -> FileShelf:
    return FileShelf.open(tmp_path / "keys")


def test_every_worker_and_every_restart_comes_to_the_same_key(wrapping: Wrapping, shelf: FileShelf) -> None:
    first = TenantKeys(shelf, wrapping)
    sealed, commitment = first.seal("acme", b"name", b"text"), first.commit("acme", b"data")

    again = TenantKeys(FileShelf.open(shelf.directory), wrapping)

    assert again.open_("acme", b"name", sealed) == b"text"
    assert again.commit("acme", b"data") == commitment
    assert again.salt("acme") == first.salt("acme") != first.salt("globex")
    assert again.held() == {"acme": first.held()["acme"]}


def test_a_key_wrapped_for_one_tenant_does_not_open_for_another(wrapping: Wrapping) -> None:
    wrapped = wrapping.wrap("acme", b"k" * 32)

    assert wrapping.unwrap("acme", wrapped) == b"k" * 32
    with pytest.raises(Unwrappable, match="the key of tenant `globex` does not open"):
        wrapping.unwrap("globex", wrapped)


def test_what_rests_on_the_shelf_is_no_key(wrapping: Wrapping, shelf: FileShelf) -> None:
    data_key = b"not-to-be-found-in-any-file-here"
    wrapped = wrapping.wrap("acme", data_key)

    assert data_key not in wrapped
    assert repr(wrapping).count("k" * 8) == 0


async def test_a_tenant_s_key_is_made_when_it_is_first_needed_and_the_store_is_told_before(
    wrapping: Wrapping, shelf: FileShelf
) -> None:
    told: list[tuple[str, bool]] = []

    async def forget(tenant: str) -> None:
        told.append((tenant, shelf.find(tenant) is None))

    keys = TenantKeys(shelf, wrapping, ManualClock())
    for _ in range(3):
        await keys.ready("acme", forget)
    await TenantKeys(shelf, wrapping).ready("acme", forget)

    assert told == [("acme", True)]
    kept = shelf.find("acme")
    assert isinstance(kept, Kept)
    assert (kept.tenant, kept.wrapped_by, kept.made_at) == (
        "acme", wrapping.name, "2026-01-01T00:00:00.000000Z",
    )  # fmt: skip


async def test_a_shredded_tenant_is_refused_until_it_is_renewed_and_nothing_of_before_opens(
    wrapping: Wrapping, shelf: FileShelf
) -> None:
    keys = TenantKeys(shelf, wrapping)
    sealed, commitment = keys.seal("acme", b"", b"text"), keys.commit("acme", b"data")
    shelf.shred("acme", NOW)
    keys.drop("acme")

    for use in (lambda: keys.seal("acme", b"", b""), lambda: keys.commit("acme", b""),
                lambda: keys.salt("acme"), lambda: keys.open_("acme", b"", sealed)):  # fmt: skip
        with pytest.raises(TenantErased, match="douane tenant renew"):
            use()
    with pytest.raises(TenantErased):
        await keys.ready("acme", remembered)

    assert shelf.renew("acme")
    await keys.ready("acme", remembered)
    with pytest.raises(Unsealable):
        keys.open_("acme", b"", sealed)
    assert keys.commit("acme", b"data") != commitment


def test_kms_is_asked_once_for_a_tenant_and_process(kms: tuple[Counted, str], shelf: FileShelf) -> None:
    client, key_id = kms
    keys = TenantKeys(shelf, KmsWrapping(client, key_id))
    for number in range(5):
        keys.seal("acme", b"", b"%d" % number)

    assert client.calls == ["Encrypt", "Decrypt"]  # decrypted as every later process will
    TenantKeys(shelf, KmsWrapping(client, key_id)).salt("acme")
    assert client.calls == ["Encrypt", "Decrypt", "Decrypt"]


async def test_a_kms_that_is_down_is_a_clear_refusal_and_passes(
    kms: tuple[Counted, str], shelf: FileShelf
) -> None:
    client, key_id = kms
    keys = TenantKeys(shelf, KmsWrapping(client, key_id))
    client.down = True
    with pytest.raises(KeysUnavailable) as refused:
        await keys.ready("acme", remembered)

    assert (refused.value.status, refused.value.code) == (503, "keys_unavailable")
    assert str(refused.value.__cause__) == "kms did not wrap a key: KMSInternalException"
    client.down = False
    await keys.ready("acme", remembered)
    assert "acme" in keys.held()


def test_a_key_of_another_wrapping_says_so(kms: tuple[Counted, str], shelf: FileShelf) -> None:
    TenantKeys(shelf, KmsWrapping(*kms)).salt("acme")

    with pytest.raises(KeysUnavailable) as refused:
        TenantKeys(shelf, MasterKey(bytes(32))).salt("acme")

    assert "wrapped by `kms`, and this gateway unwraps by `file`" in str(refused.value.__cause__)


def test_another_master_key_does_not_open_the_shelf(shelf: FileShelf) -> None:
    TenantKeys(shelf, MasterKey(bytes(range(32)))).salt("acme")

    with pytest.raises(KeysUnavailable) as refused:
        TenantKeys(shelf, MasterKey(bytes(32))).salt("acme")

    assert isinstance(refused.value.__cause__, Unwrappable)


def test_a_missing_kms_key_is_named(kms: tuple[Counted, str]) -> None:
    with pytest.raises(WrappingUnavailable, match="kms did not wrap a key: NotFoundException"):
        KmsWrapping(kms[0], "00000000-0000-0000-0000-000000000000").wrap("acme", b"k" * 32)


def test_a_key_file_locked_by_kms_opens_under_its_own_name_only(kms: tuple[Counted, str]) -> None:
    wrapping = KmsWrapping(*kms)
    locked = wrapping.lock("receipt-key.pem", b"-----BEGIN PRIVATE KEY-----")

    assert wrapping.unlock("receipt-key.pem", locked) == b"-----BEGIN PRIVATE KEY-----"
    with pytest.raises(Unwrappable):
        wrapping.unlock("another.pem", locked)


def test_processes_that_make_a_key_at_once_agree(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from gateway.keys.keyring import TenantKeys
from gateway.keys.shelf import FileShelf
from gateway.keys.wrapping import MasterKey
shelf = FileShelf.open(Path(sys.argv[1]))
sys.stdin.readline()  # all begin together
keys = TenantKeys(shelf, MasterKey(bytes(32)))
print(",".join(keys.salt(f"tenant-{number}") for number in range(20)))
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "keys")], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    said = [worker.communicate("go\n", timeout=60)[0] for worker in workers]

    assert said[0] == said[1] == said[2]
    assert len(set(said[0].strip().split(","))) == 20


@settings(deadline=None)  # a busy machine decides nothing
@given(st.text(), st.binary(), st.binary())
def test_what_is_sealed_opens_again(tenant: str, aad: bytes, plaintext: bytes) -> None:
    sealed = KEYS.seal(tenant, aad, plaintext)
    assert KEYS.open_(tenant, aad, sealed) == plaintext
    assert len(sealed) == len(plaintext) + 1 + 12 + 16


def test_the_same_text_is_never_sealed_alike() -> None:
    assert KEYS.seal("acme", b"", b"text") != KEYS.seal("acme", b"", b"text")


def test_neither_another_tenant_nor_another_name_nor_another_key_opens_it() -> None:
    sealed = KEYS.seal("acme", b"name", b"text")
    for keys, tenant, aad in (
        (KEYS, "globex", b"name"),
        (KEYS, "acme", b"other"),
        (TenantKeys.apart(bytes(range(32))), "acme", b"name"),
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


def test_what_a_data_key_gives_is_pinned() -> None:
    """Other values would orphan every entry and every label that is stored."""
    shelf, master = MemoryShelf(), MasterKey(bytes(32))
    wrapped = master.wrap("acme", bytes(range(32)))
    shelf.keep(Kept(tenant="acme", key_id="x", wrapped_by="file", wrapped=base64.b64encode(wrapped).decode(),
                    made_at="2026-01-01T00:00:00.000000Z"))  # fmt: skip
    keys = TenantKeys(shelf, master)

    assert keys.commit("acme", b"data") == PINNED_COMMITMENT
    assert keys.salt("acme") == PINNED_SALT


def test_a_shelf_that_cannot_be_read_is_a_refusal_not_a_crash(shelf: FileShelf) -> None:
    keys = TenantKeys(shelf, MasterKey(bytes(32)))
    keys.salt("acme")
    (file,) = shelf.directory.glob("*.json")
    file.write_text("{}")
    keys.drop("acme")

    with pytest.raises(KeysUnavailable) as refused:
        asyncio.run(keys.ready("acme", remembered))
    assert "is damaged: restore it from a backup" in str(refused.value.__cause__)


def test_keys_do_not_show_themselves() -> None:
    KEYS.salt("acme")
    shown = f"{KEYS!r} {MasterKey(bytes(32))!r} {KEYS._derived['acme']!r} {KEYS._shelf.find('acme')!r}"

    assert KEYS.salt("acme") not in shown
    assert "wrapped=" not in shown
    assert repr(KEYS) == "TenantKeys(…)"


PINNED_COMMITMENT = "7fdbe5cc0a2e25f8c7d82f4030205fe7e30b23448b552de515134085235adce3"
PINNED_SALT = "5cc7db1f0ee8e7410f5d029e75f5e67c"
