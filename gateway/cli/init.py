"""`douane init`: the two keys without which a gateway does not start."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.keys.opening import MASTER_KEY
from gateway.keys.wrapping import MasterKey
from gateway.opening import RECEIPT_KEY
from gateway.receipts.keys import create_key


@click.command()
@click.option(
    "--state-dir", type=click.Path(path_type=Path), default=Path("var"), show_default=True,
    help="Directory of keys and audit (DOUANE_STATE_DIR).",
)  # fmt: skip
def init(state_dir: Path) -> None:
    """Make the master key and the receipt key; a key that exists is left alone.

    Gateways that share a Redis must share the master key: it names conversations and opens cache entries.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, create in ((MASTER_KEY, MasterKey.create), (RECEIPT_KEY, create_key)):
        file = state_dir / name
        if file.exists():
            click.echo(f"{file} exists and is left as it is")
        else:
            create(file)
            click.echo(f"{file} made (mode 0600): back it up")
