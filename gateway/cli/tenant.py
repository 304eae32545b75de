"""`douane tenant`: whose keys there are, and destroying one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

import click

from gateway.clock import SystemClock
from gateway.keys.opening import keys_dir
from gateway.keys.shelf import FileShelf, Kept
from gateway.keys.wrapping import KeyFileInvalid
from gateway.settings import SettingsInvalid, read_settings


@click.group()
def tenant() -> None:
    """List tenants' keys, and destroy the key of one: nothing kept of it can be read or matched again."""


STATE_DIR = click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Default: the setting `state_dir`."
)
FORMAT = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@tenant.command("list")
@STATE_DIR
@FORMAT
@click.pass_context
def list_command(context: click.Context, state_dir: Path | None, form: str) -> None:
    """List the tenants that have, or had, a key. Exit status: 0 good, 3 not readable."""
    try:
        entries = shelf_of(context, state_dir).entries()
    except KeyFileInvalid as error:
        fail(context, str(error))
    if form == "json":
        shown = [entry.model_dump(exclude={"v", "wrapped", "recorded"}) for entry in entries]
        click.echo(json.dumps(shown, indent=2))
        return
    for entry in entries:
        if isinstance(entry, Kept):
            click.echo(
                f"{entry.tenant}  key {entry.key_id}, made {entry.made_at}, wrapped by {entry.wrapped_by}"
            )
        else:
            click.echo(f"{entry.tenant}  shredded {entry.shredded_at}, key {entry.key_id or 'never made'}")


@tenant.command()
@click.argument("name", metavar="TENANT")
@click.option("--yes", is_flag=True, help="Do not ask: it cannot be undone.")
@STATE_DIR
@click.pass_context
def shred(context: click.Context, name: str, yes: bool, state_dir: Path | None) -> None:
    """Destroy the key of TENANT.

    Running gateways drop it within seconds, record it, and refuse its requests from then on. What is left of
    the tenant is noise, except in backups of the keys folder.
    Exit status: 0 destroyed, 1 not confirmed or no such key, 3 not writable.
    """
    shelf = shelf_of(context, state_dir)
    try:
        known = shelf.find(name) is not None
    except KeyFileInvalid:
        known = True  # a damaged file can be shredded too
    if not known:
        click.echo(
            f"error: tenant `{name}` has no key here; `douane tenant list` names those that do", err=True
        )
        context.exit(1)
    if not yes and not click.confirm(f"destroy the key of tenant `{name}` for ever?"):
        context.exit(1)
    try:
        mark = shelf.shred(name, SystemClock().now())
    except KeyFileInvalid as error:
        fail(context, str(error))
    which = f"key {mark.key_id}" if mark.key_id is not None else "it never had a key"
    click.echo(f"shredded {mark.shredded_at}: tenant `{name}`, {which}")


@tenant.command()
@click.argument("name", metavar="TENANT")
@STATE_DIR
@click.pass_context
def renew(context: click.Context, name: str, state_dir: Path | None) -> None:
    """Let TENANT, whose key was destroyed, begin anew with a new key.

    Nothing of before opens with it. Exit status: 0 good, 1 its key was not destroyed, 3 not writable.
    """
    try:
        renewed = shelf_of(context, state_dir).renew(name)
    except KeyFileInvalid as error:
        fail(context, str(error))
    if not renewed:
        click.echo(
            f"error: the key of tenant `{name}` was not destroyed; there is nothing to renew", err=True
        )
        context.exit(1)
    click.echo(f"tenant `{name}` gets a new key with its next request")


def shelf_of(context: click.Context, state_dir: Path | None) -> FileShelf:
    try:
        settings = read_settings(os.environ)
        return FileShelf.existing(keys_dir(settings, state_dir or settings.state_dir))
    except SettingsInvalid as error:
        fail(context, str(error))
    except KeyFileInvalid as error:
        fail(context, str(error))


def fail(context: click.Context, text: str) -> NoReturn:
    click.echo(f"error: {text}", err=True)
    context.exit(3)
    raise AssertionError("exit returned")
