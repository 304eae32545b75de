"""A proof as lines of text."""

from __future__ import annotations

import click

from gateway.policy.bundle import Bundle
from gateway.policy.entrances import Entrance
from gateway.policy.witness import Proof
from gateway.policy.wording import entrance_lines


def print_proof(proof: Proof, *, verbose: bool) -> None:
    """One line for each claim (only those that do not hold unless `verbose`), then a summary."""
    for result in proof.results:
        if verbose or not result.holds:
            said = "holds" if result.holds else "FAILS"
            click.echo(f"{said}  {result.claim.id} ({result.classes} classes; {result.claim.basis})")
        if result.witness is not None:
            click.echo(
                f"       {result.claim.file}:{result.claim.line}: broken by {result.witness.request()}"
            )
            for standing in result.witness.rules:
                click.echo(f"       {standing.text()}")
    failed = sum(not result.holds for result in proof.results)
    if not proof.results:
        click.echo("no claims; write some in `claims.yaml`")
        return
    took = f"; {proof.classes} classes of requests in {proof.took_s:.2f} s" if verbose else ""
    click.echo(f"{len(proof.results) - failed} claims hold, {failed} do not{took}")


def print_entrance(entrance: Entrance, bundle: Bundle) -> None:
    """The classes of requests that a gateway cannot serve, in few lines."""
    said = "cannot serve:" if entrance.unserved else "can serve every request"
    click.echo(f"entrance {entrance.place} ({entrance.country}) {said}")
    for group in entrance.unserved:
        for line in entrance_lines(group, bundle):
            click.echo(line)
