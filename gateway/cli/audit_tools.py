"""`douane audit search`, `export` and `replay`: what auditors ask of the records."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from gateway.audit.export import NotExported, chosen, write_lines
from gateway.audit.parquet import write_parquet
from gateway.audit.reading import AuditUnreadable, Reading
from gateway.audit.replay import RESIDENCY, Replay, replay
from gateway.audit.search import Entry, Filter, entries, moment_of, wire
from gateway.cli.policy_command import exit_invalid
from gateway.cli.printable import printable
from gateway.policy.bundle import Bundle
from gateway.policy.load import compile_files
from gateway.policy.problems import PolicyInvalid
from gateway.policy.source.directory import read_directory

GOOD, NOTHING, UNREADABLE = 0, 1, 3
PROBLEMS_SHOWN: Final = 10
Command = TypeVar("Command", bound=Callable[..., None])

PATHS = click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=Path))
FORMAT = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)


def with_filter(command: Command) -> Callable[..., None]:
    """Adds the filters' options; the command is given a `Filter` as `wanted`."""

    @functools.wraps(command)
    def filtered(
        tenant: str | None, request: str | None, labels: tuple[str, ...], place: str | None,
        outcome: str | None, rule: str | None, model: str | None, kind: str | None,
        since: str | None, until: str | None, **given: Any,
    ) -> None:  # fmt: skip
        wanted = Filter(
            tenant, request, frozenset(labels), place, outcome, rule, model, kind,
            moment(since, "--since"), moment(until, "--until", end=True),
        )  # fmt: skip
        command(wanted=wanted, **given)

    options = [
        click.option("--tenant", help="Only requests of this tenant."),
        click.option("--request", help="Only the request with this id."),
        click.option(
            "--label", "labels", multiple=True, help="Only requests with this label; may repeat: with all."
        ),
        click.option("--place", help="Only requests that were planned for this place, or tried there."),
        click.option(
            "--outcome", help="Only so ended: answered, cached, refused, failed, incomplete or unfinished."
        ),
        click.option("--rule", help="Only requests that this rule decided."),
        click.option("--model", help="Only requests for this model."),
        click.option("--kind", help="Only with a record of this kind, such as `refused` or `policy_loaded`."),
        click.option("--since", help="A day or a time, in UTC: `2026-11-23`, `2026-11-23T15:00`."),
        click.option("--until", help="The same; a day is included, a time is not."),
    ]
    for option in reversed(options):
        filtered = option(filtered)
    return filtered


def moment(text: str | None, option: str, *, end: bool = False) -> str | None:
    """Raises `click.UsageError`."""
    try:
        return moment_of(text, end=end) if text is not None else None
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"`{option}` {text} is no day or time; write `2026-11-23` or `2026-11-23T15:00`"
        ) from None


@click.command("search")
@PATHS
@with_filter
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many.")
@FORMAT
@click.pass_context
def search(
    context: click.Context, paths: tuple[Path, ...], wanted: Filter, limit: int | None, form: str
) -> None:
    """List the requests and other records in PATHs that fit, each request's beginning and end as one.

    PATHs are audit files, or directories of them. `--format json` prints one object a line. Exit status:
    0 found, 1 nothing fits, 3 something cannot be read.
    """
    found = 0
    try:
        reading = Reading.of(paths)
        for entry in islice(entries(reading.by_time(), wanted), limit):
            found += 1
            click.echo(json.dumps(wire(entry)) if form == "json" else printable(say(entry)))
    except AuditUnreadable as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        context.exit(UNREADABLE)
    if warn(reading):
        context.exit(UNREADABLE)
    context.exit(GOOD if found else NOTHING)


@click.command("export")
@PATHS
@with_filter
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), help="The new file to write.")
@click.option(
    "--form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True,
    help="`jsonl`: the chain's own lines. `parquet`: a row a record; needs `douane[parquet]`.",
)  # fmt: skip
@click.pass_context
def export(context: click.Context, paths: tuple[Path, ...], wanted: Filter, target: Path, form: str) -> None:
    """Write the records in PATHs that fit to one new file.

    The file is there whole or not at all, and none is written over. Without a filter, and of one replica, a
    `jsonl` file is a chain that `douane audit verify` checks. Exit status: 0
    written, 3 something cannot be read or written.
    """
    try:
        reading = Reading.of(paths)
        write = write_parquet if form == "parquet" else write_lines
        count = write(chosen(reading, wanted), target)
    except (AuditUnreadable, NotExported) as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        context.exit(UNREADABLE)
    click.echo(f"{count} records in {target}")
    context.exit(UNREADABLE if warn(reading) else GOOD)


@click.command("replay")
@PATHS
@click.option(
    "--policies", "directory", required=True, type=click.Path(path_type=Path), help="The other bundle."
)
@FORMAT
@click.pass_context
def replay_command(context: click.Context, paths: tuple[Path, ...], directory: Path, form: str) -> None:
    """Decide the requests recorded in PATHs once more under another bundle; shows what would change.

    Facts are taken from the records: who asked, for which model, with which labels. Exit status: 0 nothing
    would change, 1 something would, 3 a file or the bundle cannot be read.
    """
    try:
        bundle = compile_files(read_directory(directory)).bundle
        reading = Reading.of(paths)
        found = replay((line.link for line in reading.in_order()), bundle)
    except PolicyInvalid as invalid:
        exit_invalid(context, invalid, form)
    except AuditUnreadable as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        context.exit(UNREADABLE)
    if form == "json":
        click.echo(json.dumps(replayed(found, bundle), indent=2))
    else:
        say_replay(found, bundle)
    if warn(reading):
        context.exit(UNREADABLE)
    context.exit(NOTHING if found.groups else GOOD)


def replayed(found: Replay, bundle: Bundle) -> dict[str, Any]:
    return {
        "revision": bundle.revision,
        "serial": bundle.serial,
        "replayed": found.replayed,
        "same": found.same,
        "left_out": found.left_out,
        "changed": [
            {**asdict(group.disagreement), **{name: value for name, value in asdict(group).items()
                                              if name != "disagreement"}}
            for group in found.changed
        ],
    }  # fmt: skip


def say_replay(found: Replay, bundle: Bundle) -> None:
    click.echo(f"under {bundle.revision} (serial {bundle.serial}): {found.replayed} requests decided again")
    click.echo(f"{found.same} alike, {found.replayed - found.same} otherwise")
    for group in found.changed:
        what = group.disagreement
        labels = ", ".join(what.labels)
        who = f"{group.tenant} ({what.zone}), {what.model}, {labels}"
        click.echo(printable(f"{group.count} × {what.kind}: {who}"))
        sides = (("then", what.live, what.live_rule), ("now", what.candidate, what.candidate_rule))
        for title, said, rule in sides if RESIDENCY in (what.live, what.candidate) else ():
            word = "refused" if said == RESIDENCY else "answered"
            click.echo(printable(f"    {title:<5} {word}" + (f" by {rule}" if rule else "")))
        for title, grants in (("gains", what.gained), ("loses", what.lost)):
            if grants:
                click.echo(printable(f"    {title} {', '.join(grants)}"))
        click.echo(printable(f"    such as {group.request}, {group.first} to {group.last}"))
    for reason, count in sorted(found.left_out.items()):
        click.echo(f"{count} not decided again: {reason}")


def warn(reading: Reading) -> bool:
    """Says on stderr which lines could not be read; whether there were any."""
    for problem in reading.problems[:PROBLEMS_SHOWN]:
        click.echo(f"warning: {printable(problem)}", err=True)
    if reading.problems_count:
        click.echo(
            f"warning: left out {reading.problems_count} lines; look with `douane audit verify`", err=True
        )
    return bool(reading.problems_count)


def say(entry: Entry) -> str:
    return "  ".join([entry.time, *(request_words(entry) if entry.of_request else process_words(entry))])


def request_words(entry: Entry) -> Iterator[str]:
    yield str(entry.field("request"))
    yield str(entry.field("tenant") or "-")
    yield str(entry.field("model") or "-")
    yield ",".join(entry.field("labels") or ()) or "-"
    status = entry.field("status")
    outcome = f"{entry.outcome} {status}" if status is not None else str(entry.outcome)
    yield outcome + (f" at {entry.answered_at}" if entry.answered_at else "")
    if (code := entry.field("code")) is not None:
        yield str(code)
    if rules := entry.field("rules"):
        yield f"by {', '.join(rules)}"


def process_words(entry: Entry) -> Iterator[str]:
    link = entry.lines[0].link
    yield link.kind
    yield from (f"{name}={value}" for name, value in link.fields.items() if value is not None)
