"""`douane policy detect`: what a bundle's detectors find in a text, and what that would label it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from gateway.cli.policy_command import DIRECTORY, GOOD, PolicyCommand, exit_invalid, load_or_exit, with_format
from gateway.cli.printable import printable
from gateway.detect.budget import TooDense
from gateway.detect.kinds import Found
from gateway.detect.rules import DetectorRules
from gateway.policy.bundle import Bundle
from gateway.policy.problems import PolicyInvalid, Problem, did_you_mean


@click.command(cls=PolicyCommand)
@DIRECTORY
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--tenant", required=True, help="Whose request it would be: its patterns, its country's phones."
)
@click.option("--show", is_flag=True, help="Print what was found, not only where.")
@with_format
@click.pass_context
def detect(context: click.Context, directory: Path, file: Path, tenant: str, show: bool, form: str) -> None:
    """Say what the detectors of the bundle in DIR find in FILE (`-` is standard input), and where."""
    bundle = load_or_exit(context, directory, form).bundle
    try:
        text = read_text(file)
        found, whole = find(text, tenant, bundle)
    except PolicyInvalid as error:
        exit_invalid(context, error, form)
    rules = bundle.detectors
    kinds = {one.kind for one in found} if whole or rules is None else rules.everything(tenant)
    labels = rules.labels_of(kinds, bundle.vocabulary) if rules is not None else None
    names = labels.names() if labels is not None else ()
    if form == "json":
        lines = [
            {
                "kind": one.kind,
                "labels": labels_of(one, rules),
                "start": one.start,
                "end": one.end,
                **({"text": text[one.start : one.end]} if show else {}),
            }
            for one in found
        ]
        said = {"revision": bundle.revision, "labels": names, "read": whole, "found": lines}
        click.echo(json.dumps(said, indent=2))
    else:
        for one in found:
            shown = f"  {printable(text[one.start : one.end])}" if show else ""
            click.echo(f"{one.start}-{one.end}  {one.kind}  {', '.join(labels_of(one, rules)) or '-'}{shown}")
        if not whole:
            click.echo("too long or too dense to be read: it counts as holding everything")
        click.echo(f"labels: {', '.join(names) or 'none'}" if rules else "this bundle has no detectors.yaml")
    context.exit(GOOD)


def find(text: str, tenant: str, bundle: Bundle) -> tuple[list[Found], bool]:
    """What is found, and whether all of it was read. Raises PolicyInvalid for an unknown tenant."""
    if tenant not in bundle.tenants:
        hint = did_you_mean(tenant, bundle.tenants)
        raise PolicyInvalid([Problem("--tenant", 0, None, f"`{tenant}` is not a known tenant", hint)])
    rules = bundle.detectors
    if rules is None:
        return [], True
    if len(text.encode()) > rules.text_bytes_max:
        return [], False
    try:
        return rules.find(text, tenant, bundle.tenants[tenant].zone), True
    except TooDense:
        return [], False


def labels_of(found: Found, rules: DetectorRules | None) -> list[str]:
    return sorted(rules.labels.get(found.kind, ())) if rules is not None else []


def read_text(file: Path) -> str:
    """The text. Raises PolicyInvalid when it cannot be read or is not UTF-8."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        said = (error.strerror or "cannot be read").lower()
        problem = Problem(str(file), 0, None, said, "name a file of text, or `-` for standard input")
    except UnicodeDecodeError:
        problem = Problem(str(file), 0, None, "not UTF-8", "save the text as UTF-8")
    raise PolicyInvalid([problem])
