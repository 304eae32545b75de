"""`douane egress`: every `host:port` that a gateway with these settings and policies may connect to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli.serve import NOT_STARTED, fail
from gateway.egress.destinations import as_rows, destinations
from gateway.policy.load import compile_files
from gateway.policy.source.directory import read_directory
from gateway.settings import read_settings

RESOLVER: Final = Path("/etc/resolv.conf")


@click.command()
@click.option("--policies", type=click.Path(path_type=Path), help="Directory of the policy bundle.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def egress(policies: Path | None, form: str) -> None:
    """Print what this gateway may connect to, so that a firewall can be written from it.

    Reads the same settings as `serve` and connects to nothing. The names are looked up by the machine's
    resolver, which is listed last.
    """
    given: dict[str, Any] = {"policies": policies} if policies is not None else {}
    try:
        settings = read_settings(os.environ, **given)
        bundle = compile_files(read_directory(settings.policies)).bundle
        rows = [*as_rows(destinations(settings, bundle)), *resolvers()]
    except (*NOT_STARTED, OSError) as error:
        fail(error)
    click.echo(json.dumps(rows, indent=2) if form == "json" else table(rows))


def resolvers() -> list[dict[str, Any]]:
    """The machine's own: names are looked up by the operating system, which asks these."""
    lines = RESOLVER.read_text().splitlines() if RESOLVER.exists() else []
    hosts = [words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver"]
    return [
        {
            "destination": f"[{host}]:53" if ":" in host else f"{host}:53",
            "host": host,
            "port": 53,
            "place": None,
            "why": "DNS of this machine, for the names above only",
            "private_range": [],
        }
        for host in hosts
    ]


def table(rows: list[dict[str, Any]]) -> str:
    cells = [("DESTINATION", "PLACE", "WHY")]
    for row in rows:
        within = f" (only in {', '.join(row['private_range'])})" if row["private_range"] else ""
        cells.append((row["destination"], row["place"] or "-", row["why"] + within))
    widths = [max(len(cell[column]) for cell in cells) for column in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in cells)
