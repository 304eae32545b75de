"""Every file with a secret that the gateway reads: refused while others could read it, with the cure."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from gateway.engine_process import read_or_create_secret
from gateway.keys.keyring import TenantKeys
from gateway.keys.shelf import FileShelf, name_of
from gateway.keys.wrapping import MasterKey
from gateway.receipts.keys import create_key, load_signing_key
from gateway.server import require_certificate
from gateway.settings import Settings, read_settings
from local_engine.cli import read_secret


def master_key(folder: Path) -> Path:
    MasterKey.create(folder / "master.key")
    return folder / "master.key"


def tenant_key(folder: Path) -> Path:
    shelf = FileShelf.open(folder / "keys")
    TenantKeys(shelf, MasterKey(bytes(32))).salt("acme")
    return shelf.directory / name_of("acme")


def receipt_key(folder: Path) -> Path:
    create_key(folder / "receipt-key.pem")
    return folder / "receipt-key.pem"


def engine_secret(folder: Path) -> Path:
    read_or_create_secret(folder / "engine-secret")
    return folder / "engine-secret"


def tls_key(folder: Path) -> Path:
    certificate = trustme.CA().issue_cert("gateway.example")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.pem")
    (folder / "tls.key").chmod(0o600)
    return folder / "tls.key"


def settings_file(folder: Path) -> Path:
    (folder / "douane.yaml").write_text("redis_url: redis://user:hunter2@redis.internal\n")
    (folder / "douane.yaml").chmod(0o600)
    return folder / "douane.yaml"


def serve_tls(key: Path) -> None:
    require_certificate(Settings(tls_cert=key.with_name("tls.pem"), tls_key=key))


@dataclass(frozen=True, slots=True)
class SecretFile:
    """One kind: how it is made, and how the gateway reads it."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


FILES = {
    "master key": SecretFile(master_key, MasterKey.from_file),
    "tenant's key": SecretFile(tenant_key, lambda path: FileShelf(path.parent).find("acme")),
    "receipt key": SecretFile(receipt_key, load_signing_key),
    "engine secret": SecretFile(engine_secret, read_or_create_secret),
    "engine secret, at the engine": SecretFile(engine_secret, read_secret),
    "TLS key": SecretFile(tls_key, serve_tls),
    "settings": SecretFile(settings_file, lambda path: read_settings({"DOUANE_CONFIG": str(path)})),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o660])
def test_a_secret_that_others_can_reach_is_refused_with_the_cure(
    tmp_path: Path, kind: str, mode: int
) -> None:
    path = FILES[kind].make(tmp_path)
    path.chmod(mode)

    with pytest.raises(Exception, match=f"run `chmod 600 {path}`") as refused:
        FILES[kind].read(path)

    assert f"{mode:04o}" in str(refused.value)
    assert type(refused.value).__module__.startswith(("gateway.", "local_engine."))
    path.chmod(0o600)
    FILES[kind].read(path)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_what_its_owner_alone_can_reach_is_read(tmp_path: Path, kind: str, mode: int) -> None:
    path = FILES[kind].make(tmp_path)
    path.chmod(mode)

    FILES[kind].read(path)


@pytest.mark.parametrize("kind", FILES)
def test_a_symlink_is_followed_and_the_file_at_its_end_counts(tmp_path: Path, kind: str) -> None:
    """As secrets are mounted; the mode of a symlink itself says nothing."""
    (tmp_path / "mounted").mkdir()
    real = FILES[kind].make(tmp_path / "mounted")
    for file in real.parent.iterdir():
        (tmp_path / file.name).symlink_to(file)
    path = tmp_path / real.name

    FILES[kind].read(path)

    real.chmod(0o644)
    with pytest.raises(Exception, match="mode `?0644"):
        FILES[kind].read(path)


@pytest.mark.parametrize("make", [master_key, receipt_key, engine_secret])
def test_a_secret_is_made_for_its_owner_alone_whatever_the_umask(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    before = os.umask(0)
    try:
        path = make(tmp_path)
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("make", "name"), [(master_key, "master.key"), (receipt_key, "receipt-key.pem")])
def test_a_new_key_is_not_written_through_a_symlink(
    tmp_path: Path, make: Callable[[Path], Path], name: str
) -> None:
    """Somebody who may write the directory would else choose where a key goes."""
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Exception, match=r"exists"):
        make(tmp_path)

    assert not (tmp_path / "elsewhere").exists()


SETTINGS = {
    "redis_url: redis://redis.internal": None,  # no user, no password
    "port: 8081": None,
    "redis_url: redis://:hunter2@redis.internal": "redis_url",
    "engine_secret: hunter2": "engine_secret",
    "demo_key: hunter2": "demo_key",
    "trace_secret: hunter2\ntrace_url: https://c/v1/traces\ntrace_place: collector": "trace_secret",
    "backends: {house: {url: 'https://h', secret: hunter2}}": "backends.house.secret",
    "backends: {house: {url: 'https://h'}}": None,
}


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_without_a_secret_may_be_read_by_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "douane.yaml").write_text(text)
    (tmp_path / "douane.yaml").chmod(0o644)
    field = SETTINGS[text]

    if field is None:
        read_settings({"DOUANE_CONFIG": str(tmp_path / "douane.yaml")})
        return
    with pytest.raises(Exception, match=f"`{field}`: .*mode 0644") as refused:
        read_settings({"DOUANE_CONFIG": str(tmp_path / "douane.yaml")})
    assert "hunter2" not in str(refused.value)
