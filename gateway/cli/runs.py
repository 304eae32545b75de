"""The examples of a bundle as lines of text."""

from __future__ import annotations

import click

from gateway.policy.runner import Run


def print_run(run: Run, *, verbose: bool) -> None:
    """One line for each case (only the failing ones unless `verbose`), then a summary."""
    for result in run.results:
        if verbose or not result.passed:
            click.echo(f"{'pass' if result.passed else 'FAIL'}  {result.case.name}")
        for failure in result.failures:
            click.echo(f"      {result.case.file}:{result.case.line}: {failure}")
    failed = sum(not result.passed for result in run.results)
    click.echo(f"{len(run.results) - failed} examples passed, {failed} failed")
    for rule in run.unexercised:
        click.echo(f"no example exercises `{rule}`")
