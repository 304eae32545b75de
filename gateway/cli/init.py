"""`douane init`: the two keys without which a gateway does not start."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from gateway.keys.opening import MASTER_KEY, kms_wrapping
from gateway.keys.wrapping import MasterKey
from gateway.opening import RECEIPT_KEY
from gateway.receipts.keys import SigningKeyInvalid, create_key
from gateway.settings import SettingsInvalid, read_settings


@click.command()
@click.option(
    "--state-dir", type=click.Path(path_type=Path), default=Path("var"), show_default=True,
    help="Directory of keys and audit (DOUANE_STATE_DIR).",
)  # fmt: skip
@click.pass_context
def init(context: click.Context, state_dir: Path) -> None:
    """Make the master key and the receipt key; a key that exists is left alone.

    With DOUANE_KMS_KEY_ID and DOUANE_KMS_REGION the receipt key is locked by that key, and there is no master
    key. Gateways that share a Redis must share the master key, or the KMS key, and the keys folder.
    """
    try:
        lock = kms_wrapping(read_settings(os.environ))
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        made: list[tuple[str, Callable[[Path], object]]] = [(RECEIPT_KEY, partial(create_key, lock=lock))]
        if lock is None:
            made.insert(0, (MASTER_KEY, MasterKey.create))
        for name, create in made:
            file = state_dir / name
            if file.exists():
                click.echo(f"{file} exists and is left as it is")
            else:
                create(file)
                click.echo(f"{file} made (mode 0600): back it up")
    except (SettingsInvalid, SigningKeyInvalid) as error:
        click.echo(f"error: {error}", err=True)
        context.exit(3)
