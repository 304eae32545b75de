"""A proof as lines of text."""

from __future__ import annotations

from collections.abc import Collection

import click

from gateway.policy.bundle import Bundle
from gateway.policy.entrances import Entrance, Unserved, in_words
from gateway.policy.witness import Proof

LABELS_SHOWN = 6  # of those from which an entrance cannot serve; JSON has all


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


def entrance_lines(group: Unserved, bundle: Bundle) -> tuple[str, str]:
    """Who cannot be served, and from which labels on."""
    labels = [", ".join(one.names()) for one in group.labels_from]
    more = f"; and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else ""
    purposes = all_or(group.purposes, bundle.vocabulary.purposes, "purpose")
    models = all_or(group.models, bundle.routes.models, "model")
    return (
        f"  {in_words(group.whos, bundle)}; {purposes}; {models}",
        f"       from the labels {'; or '.join(labels[:LABELS_SHOWN])}{more}: {', '.join(group.rules)}",
    )


def all_or(chosen: Collection[str], every: Collection[str], what: str) -> str:
    return f"any {what}" if len(chosen) == len(every) else f"{what} {', '.join(chosen)}"
