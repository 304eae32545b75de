"""`douane demo`: the tour."""

from __future__ import annotations

import asyncio
import logging

import click
from rich.console import Console

from gateway import logs
from gateway.cli.serve import NOT_STARTED, fail
from gateway.demo.tour import TourFailed, tour


@click.command()
def demo() -> None:
    """A short tour on this machine: spill-over, residency, refusal, cache, and each receipt verified."""
    logs.configure_logs()
    logging.getLogger("douane").setLevel(logging.CRITICAL)
    try:
        asyncio.run(tour(Console()))
    except TourFailed as failed:
        click.echo(f"douane: {failed}", err=True)
        raise SystemExit(1) from None
    except NOT_STARTED as error:
        fail(error)
