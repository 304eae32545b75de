"""The difference of two bundles, printed."""

from __future__ import annotations

import click

from gateway.policy.bundle import Bundle
from gateway.policy.compare import Difference
from gateway.policy.wording import entrance_change, group_lines, sender_lines, summary


def print_difference(found: Difference, old: Bundle, new: Bundle) -> None:
    """What becomes allowed comes first, then what becomes denied, then what else has changed."""
    click.echo(f"old {found.revisions[0]} (serial {old.serial})")
    click.echo(f"new {found.revisions[1]} (serial {new.serial})")
    for title, groups, senders, bundle, turned in (
        ("newly allowed", found.allowed, found.sent_allowed, new, False),
        ("newly denied", found.denied, found.sent_denied, old, True),
    ):
        if groups or senders:
            click.echo(f"\n{title}:")
        for group in groups:
            for line in group_lines(group, bundle, turned=turned):
                click.echo(f"  {line}")
        for sender in senders:
            for line in sender_lines(sender, turned=turned):
                click.echo(f"  {line}")
    for was, now in found.entrances:
        click.echo("")
        for line in entrance_change(was, now, old, new):
            click.echo(line)
    if found.beside:
        click.echo("\nalso changed:")
    for one in found.beside:
        click.echo(f"  {one.file}: {one.text}{' (counts as newly allowed)' if one.loosens else ''}")
    click.echo("")
    click.echo(summary(found))
