"""`douane audit`: what an auditor does with the audit's files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from gateway.audit.alterations import Finding
from gateway.audit.verify import LIMITS, ChainReport, NotAnAuditFile, verify_files
from gateway.cli.audit_tools import search
from gateway.cli.printable import printable

UNFINISHED_SHOWN = 10


@click.group()
def audit() -> None:
    """Read and check the audit's records."""


audit.add_command(search)


@audit.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def verify(context: click.Context, files: tuple[Path, ...], form: str) -> None:
    """Check that FILEs are the chains that were written.

    Finds records that were edited, dropped, reordered, duplicated or inserted, and says at which line.
    Give all files of a replica together. Exit status: 0 intact, 1 altered, 3 not readable.
    """
    try:
        if not files:
            raise NotAnAuditFile("no file was named; name the files to check, such as `var/audit/*.jsonl`")
        reports = verify_files(files)
    except NotAnAuditFile as error:
        _say_unreadable(str(error), form)
        context.exit(3)
    if form == "json":
        click.echo(json.dumps(_document(reports), indent=2))
    else:
        _print(reports)
    context.exit(0 if all(report.intact for report in reports) else 1)


def _document(reports: tuple[ChainReport, ...]) -> dict[str, object]:
    return {
        "intact": all(report.intact for report in reports),
        "chains": [{**asdict(report), "intact": report.intact} for report in reports],
        "not_found_without_an_anchor": list(LIMITS),
    }


def _say_unreadable(problem: str, form: str) -> None:
    if form == "json":
        click.echo(json.dumps({"error": problem}))
    else:
        click.echo(f"error: {problem}", err=True)


def _print(reports: tuple[ChainReport, ...]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for report in reports:
        _print_chain(console, report)
    console.print(Text("not found by this check alone: " + "; ".join(LIMITS), style="dim"))


def _print_chain(console: Console, report: ChainReport) -> None:
    if report.records:
        span = f"{report.records} records, {report.first} to {report.last}, head {report.head}"
    else:
        span = "no record"
    verdict = Text("intact", style="green") if report.intact else Text("altered", style="bold red")
    console.print(Text.assemble(verdict, f"  replica {printable(report.replica)}: {span}"))
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
