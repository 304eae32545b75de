"""`douane log`: reading the content log, for whoever holds the master key."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from gateway.cli.printable import printable
from gateway.cli.serve import fail
from gateway.keys.opening import open_keys
from gateway.keys.wrapping import KeyFileInvalid
from gateway.settings import SettingsInvalid, read_settings
from gateway.sinks.reading import read_entries

DAMAGED = 1


@click.group()
def log() -> None:
    """Read the content log."""


@log.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=click.Path(path_type=Path))
@click.option("--tenant", help="Only this tenant's entries.")
@click.option("--request", help="Only the entry of this request, `req_…`.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Directory of `master.key`; default: `state_dir`."
)
@click.pass_context
def read(
    context: click.Context,
    paths: tuple[Path, ...],
    tenant: str | None,
    request: str | None,
    state_dir: Path | None,
) -> None:
    """Print the entries of PATHs, opened, one JSON object a line.

    A PATH is a file or a directory; the default is the directory of DOUANE_CONTENT_LOG.
    Exit status: 0 good, 1 a line is damaged or does not open, 3 a file or the key cannot be read.
    """
    damaged = False
    try:
        settings = read_settings(os.environ)
        chosen = paths or ((settings.content_log,) if settings.content_log is not None else ())
        if not chosen:
            raise SettingsInvalid(("no file is named, and DOUANE_CONTENT_LOG is not set; name one",))
        keys = open_keys(settings, state_dir=state_dir).ring
        for line in read_entries(chosen, keys):
            if line.entry is None:
                damaged = True
                click.echo(f"douane: {printable(line.where)}: {line.problem}", err=True)
                continue
            head, content = line.entry.head, line.entry.content
            if tenant in (None, head["tenant"]) and request in (None, head["request"]):
                # In ASCII: what a caller wrote may hold what a terminal would obey.
                click.echo(json.dumps({**head, "content": content}))
    except OSError as error:
        fail(ValueError(f"`{error.filename}` cannot be read: {(error.strerror or 'unknown').lower()}"))
    except (SettingsInvalid, KeyFileInvalid) as error:
        fail(error)
    context.exit(DAMAGED if damaged else 0)
