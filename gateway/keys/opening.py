"""The keys of a gateway, from its settings: which wrapping, which shelf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.clock import Clock
from gateway.keys.keyring import TenantKeys
from gateway.keys.kms import KmsWrapping, kms_client
from gateway.keys.shelf import FileShelf
from gateway.keys.wrapping import KeyFileInvalid, MasterKey, Wrapping
from gateway.settings import Settings

MASTER_KEY: Final = "master.key"
KEYS_DIR: Final = "keys"
SHELF: Final = "keys"  # the store's name for which shelf those who share it use


@dataclass(frozen=True, slots=True)
class Keys:
    """The keyring and the shelf beneath it."""

    ring: TenantKeys
    shelf: FileShelf


def open_keys(settings: Settings, clock: Clock | None = None, state_dir: Path | None = None) -> Keys:
    """Raises `KeyFileInvalid` and `SettingsInvalid`; asks no service yet. `state_dir` stands in for the
    setting."""
    at = state_dir or settings.state_dir
    wrapping: Wrapping = kms_wrapping(settings) or MasterKey.from_file(at / MASTER_KEY)
    shelf = FileShelf.open(keys_dir(settings, at))
    return Keys(TenantKeys(shelf, wrapping, clock), shelf)


def keys_dir(settings: Settings, state_dir: Path) -> Path:
    return settings.keys_dir or state_dir / KEYS_DIR


def kms_wrapping(settings: Settings) -> KmsWrapping | None:
    """None where keys are wrapped by the master key. Raises `SettingsInvalid`."""
    from gateway.building import aws_session  # which builds backends, and so knows keys

    if settings.kms_key_id is None:
        return None
    assert settings.kms_region is not None
    return KmsWrapping(kms_client(aws_session(settings), settings.kms_region), settings.kms_key_id)


def require_shared(shelf_id: str, claimed: str | None) -> None:
    """Raises `KeyFileInvalid` when gateways that share the store use another shelf than this one: each would
    take the labels and answers of the others for noise."""
    if claimed is not None and claimed != shelf_id:
        raise KeyFileInvalid(
            "another keys folder is in use with this store: share one folder among the gateways that share a "
            "store (`keys_dir`), or, once no gateway uses the other one, delete `douane:keys` in Redis"
        )
