"""`douane doctor`: what the AWS account and this machine do beside the policy, and what to fix."""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.backends.prices import Prices
from gateway.cli.printable import printable
from gateway.cli.serve import fail, require_clean_environment
from gateway.doctor.examination import examine
from gateway.doctor.finding import Finding, Report, Status
from gateway.doctor.permissions import policy_document
from gateway.doctor.vouching import examine_vouching
from gateway.opening import configured_prices, require_usable
from gateway.policy.load import load_files
from gateway.policy.problems import REFUSALS
from gateway.policy.source.directory import read_directory
from gateway.settings import SettingsInvalid, read_settings

STYLES: Final = {
    Status.OK: "green",
    Status.WARN: "yellow",
    Status.FAIL: "bold red",
    Status.UNKNOWN: "magenta",
}
NOT_POSSIBLE: Final = (SettingsInvalid, *REFUSALS)


@click.command()
@click.option("--policies", type=click.Path(path_type=Path), help="Directory of the policy bundle.")
@click.option("--iam-policy", is_flag=True, help="Only print the IAM policy that the doctor needs.")
@click.option("--all", "everything", is_flag=True, help="A line for each check, also where all is well.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def doctor(
    context: click.Context, policies: Path | None, iam_policy: bool, everything: bool, form: str
) -> None:
    """Look at each configured AWS region and at this machine, and say what to fix.

    Reads settings and bundle as `serve` does, and only ever reads in the account. Exit status: 0 nothing
    failed, 1 something failed or could not be looked at, 3 invalid settings or bundle.
    """
    try:
        settings = read_settings(os.environ, **({"policies": policies} if policies else {}))
        require_clean_environment(settings)
        prices = Prices.load(configured=configured_prices(settings))
        files = read_directory(settings.policies)
        bundle = require_usable(load_files(files).bundle, settings, prices)
        if iam_policy:
            click.echo(json.dumps(policy_document(bundle.places.values()), indent=2))
            return
        vouched = tuple(examine_vouching(settings, files, bundle))
        report = Report((*vouched, *examine(settings, bundle).findings))
    except NOT_POSSIBLE as error:
        fail(error)
    if form == "json":
        click.echo(json.dumps(report.wire(), indent=2))
    else:
        show(report, Console(highlight=False), everything)
    context.exit(0 if report.healthy else 1)


def show(report: Report, console: Console, everything: bool) -> None:
    """The table, and a line that sums it up. What is well is one line a region, unless `everything` is."""
    table = Table()
    for title in ("where", "check", "", "what was seen", "what to do"):
        table.add_column(title, overflow="fold")
    for where, found in groupby(report.findings, lambda finding: finding.where):
        findings = list(found)
        good = [] if everything else [each.check for each in findings if each.status is Status.OK]
        for finding in findings:
            if everything or finding.status is not Status.OK:
                table.add_row(*row(finding))
        if good:
            table.add_row(printable(where), "all else", Text("ok", style="green"), printable(", ".join(good)))
        table.add_section()
    console.print(table)
    console.print(Text(", ".join(f"{report.count(status)} {status}" for status in Status)))
    if report.emulated:
        said = "Bedrock was emulated: what is marked so says nothing about an AWS account"
        console.print(Text(said, style="bold yellow"))


def row(finding: Finding) -> tuple[Text, ...]:
    return (
        Text(printable(finding.where)),
        Text(printable(finding.check)),
        Text(finding.status, style=STYLES[finding.status]),
        Text(printable(finding.seen)),
        Text(printable(finding.fix)),
    )
