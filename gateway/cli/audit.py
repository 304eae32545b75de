"""`douane audit`: what an auditor does with the audit's files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from gateway.audit.alterations import Finding
from gateway.audit.anchors import AnchorUnusable, read_anchors
from gateway.audit.verify import ChainReport, NotAnAuditFile, latest_checkpoints, limits, verify_files
from gateway.cli.audit_tools import export, replay_command, search
from gateway.cli.printable import printable
from gateway.receipts.keys import SigningKeyInvalid
from gateway.receipts.pinned import load_pinned

UNFINISHED_SHOWN = 10


@click.group()
def audit() -> None:
    """Read and check the audit's records."""


audit.add_command(search)
audit.add_command(export)
audit.add_command(replay_command)


@audit.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--key", "key", type=click.Path(path_type=Path), help="Public key to believe: PEM or JWK set.")
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Checkpoints or receipts kept elsewhere: a file, or a directory of them. May be given again.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def verify(
    context: click.Context, files: tuple[Path, ...], key: Path | None, anchors: tuple[Path, ...], form: str
) -> None:
    """Check that FILEs (or directories of them) are the chains that were written.

    Finds records that were edited, dropped, reordered, duplicated or inserted, and says at which line; with
    the gateway's public key also a chain that was written anew; with anchors also one that was cut, that is
    missing, or that was signed anew. Give all files of a replica together.
    Exit status: 0 intact, 1 altered, 3 not readable.
    """
    try:
        if not files:
            raise NotAnAuditFile("no file was named; name the files to check, such as `var/audit/*.jsonl`")
        if anchors and key is None:
            raise NotAnAuditFile("an anchor is only worth its signature; give the key with `--key` too")
        pinned = load_pinned(key) if key is not None else None
        known = read_anchors(anchors, pinned) if pinned is not None else ()
        reports = verify_files(files, pinned, known)
    except (NotAnAuditFile, AnchorUnusable, SigningKeyInvalid) as error:
        _say_unreadable(str(error), form)
        context.exit(3)
    left_open = limits(keyed=key is not None, anchored=bool(anchors))
    if form == "json":
        click.echo(json.dumps(_document(reports, left_open), indent=2))
    else:
        _print(reports, left_open)
    context.exit(0 if all(report.intact for report in reports) else 1)


@audit.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.pass_context
def checkpoint(context: click.Context, files: tuple[Path, ...]) -> None:
    """Print the last checkpoint of each chain in FILEs, to be kept elsewhere as an anchor.

    Exit status: 0 printed, 1 there is a chain without one, 3 not readable.
    """
    try:
        latest = latest_checkpoints(files)
    except NotAnAuditFile as error:
        _say_unreadable(str(error), "text")
        context.exit(3)
    for jws in latest.values():
        if jws is not None:
            click.echo(jws)
    for replica in (replica for replica, jws in latest.items() if jws is None):
        click.echo(f"error: the chain of replica `{printable(replica)}` has no checkpoint yet", err=True)
    context.exit(0 if all(latest.values()) else 1)


def _document(reports: tuple[ChainReport, ...], left_open: tuple[str, ...]) -> dict[str, object]:
    return {
        "intact": all(report.intact for report in reports),
        "chains": [{**asdict(report), "intact": report.intact} for report in reports],
        "not_found_by_this_check": list(left_open),
    }


def _say_unreadable(problem: str, form: str) -> None:
    if form == "json":
        click.echo(json.dumps({"error": problem}))
    else:
        click.echo(f"error: {problem}", err=True)


def _print(reports: tuple[ChainReport, ...], left_open: tuple[str, ...]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for report in reports:
        _print_chain(console, report)
    console.print(Text("not found by this check alone: " + "; ".join(left_open), style="dim"))


def _print_chain(console: Console, report: ChainReport) -> None:
    if report.records:
        span = f"{report.records} records, {report.first} to {report.last}, head {report.head}"
    else:
        span = "no record" if report.files else "no file"
    verdict = Text("intact", style="green") if report.intact else Text("altered", style="bold red")
    console.print(Text.assemble(verdict, f"  replica {printable(report.replica)}: {span}"))
    if report.signed is not None:
        console.print(Text(f"  signed up to record {report.signed}", style="dim"))
    if report.anchored is not None:
        console.print(Text(f"  anchored up to record {report.anchored}", style="dim"))
    for finding in report.alterations:
        console.print(_line(finding, "red"))
    for finding in report.warnings:
        console.print(_line(finding, "yellow"))
    for unfinished in report.unfinished[:UNFINISHED_SHOWN]:
        text = f"request {unfinished.request} began and has no end: in flight, or cut off by a crash"
        console.print(_line(Finding(unfinished.file, unfinished.line, "unfinished", text), "yellow"))
    if (more := len(report.unfinished) - UNFINISHED_SHOWN) > 0:
        console.print(Text(f"  and {more} more without an end; `--format json` lists them", style="yellow"))


def _line(finding: Finding, style: str) -> Text:
    where = f"  {printable(finding.file)}:{finding.line}: "
    return Text.assemble(where, (finding.code, style), f": {printable(finding.message)}")
