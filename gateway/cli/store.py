"""`douane store`: looking after the store that gateways share."""

from __future__ import annotations

import asyncio
import os

import click

from gateway.cli.serve import fail
from gateway.hidden import told
from gateway.policy.load import load_bundle
from gateway.policy.problems import PolicyClaimsFailed, PolicyInvalid, PolicyTestsFailed
from gateway.settings import Settings, SettingsInvalid, read_settings
from gateway.store.accept import accept_epoch as accept_epochs
from gateway.store.address import StoreMisconfigured
from gateway.store.epochs import FILE, StateUnreadable
from gateway.store.redis import RedisStore
from gateway.store.wire import StoreGone

NOT_DONE = 1

NOT_POSSIBLE = (
    SettingsInvalid,
    PolicyInvalid,
    PolicyTestsFailed,
    PolicyClaimsFailed,
    StoreMisconfigured,
    StateUnreadable,
)


@click.group()
def store() -> None:
    """Look after the Redis of DOUANE_REDIS_URL."""


@store.command("accept-epoch")
@click.option("--tenant", "tenants", multiple=True, help="Tenant to accept it for; may repeat.")
@click.option("--all", "everyone", is_flag=True, help="Every tenant of the bundle.")
def accept_epoch(tenants: tuple[str, ...], everyone: bool) -> None:
    """Accept that labels which the store lost stay lost.

    After a flush or failover, conversations from before it are judged at the highest labels of their tenant.
    Accepting ends that: they are then judged by what their requests declare.
    """
    try:
        settings = read_settings(os.environ)
        known = load_bundle(settings.policies).tenants
        unknown = sorted(set(tenants) - known.keys())
        if unknown:
            raise SettingsInvalid((f"`{unknown[0]}` is no tenant of the bundle; it has {', '.join(known)}",))
        chosen = tuple(known) if everyone else tenants
        if not chosen:
            raise SettingsInvalid(("no tenant is named; give `--tenant ID` or `--all`",))
        asyncio.run(accept(settings, chosen))
    except StoreGone as gone:
        click.echo(f"douane: {gone}; try again when it answers", err=True)
        raise SystemExit(NOT_DONE) from None
    except NOT_POSSIBLE as error:
        fail(error)


async def accept(settings: Settings, tenants: tuple[str, ...]) -> None:
    if settings.redis_url is None:
        raise SettingsInvalid(
            (
                "DOUANE_REDIS_URL is not set; a store in the process is accepted as new by stopping the "
                f"gateway, removing `{settings.state_dir / FILE}` and starting it again",
            )
        )
    opened = await RedisStore.open(told(settings.redis_url), state_dir=settings.state_dir)
    try:
        for tenant, epoch in (await accept_epochs(opened, tenants)).items():
            click.echo(f"{tenant}: accepted ({epoch})")
    finally:
        await opened.aclose()
