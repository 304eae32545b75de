"""`douane policy canary`: what a candidate would have done with real requests, and what becomes of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from gateway.cli.policy_command import FAILED, GOOD, INVALID, PolicyGroup, exit_invalid, with_format
from gateway.opening import vouching_of
from gateway.policy.bundle import Bundle
from gateway.policy.load import load_bundle
from gateway.policy.problems import PolicyClaimsFailed, PolicyInvalid, PolicyTestsFailed, PolicyUntrusted
from gateway.policy.source.directory import read_directory
from gateway.settings import Settings, SettingsInvalid, read_settings
from gateway.shadow.disagreement import LOOSENING
from gateway.shadow.promotion import drop, promote
from gateway.shadow.tally import FOLDER, SavedGroup, SavedTally, added_up, read_tallies

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the two bundles and the counts are."""

    live: Path
    candidate: Path
    counts: Path
    settings: Settings


@click.group(cls=PolicyGroup)
@click.option("--policies", type=click.Path(path_type=Path), help="The live bundle; default: `policies`.")
@click.option(
    "--shadow", type=click.Path(path_type=Path), help="The candidate; default: the setting `shadow_policies`."
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Default: the setting `state_dir`.")
@click.pass_context
def canary(
    context: click.Context, policies: Path | None, shadow: Path | None, state_dir: Path | None
) -> None:
    """Look at the candidate bundle beside the live one, promote it, or drop it.

    Exit status: 0 good, 1 refused or disagreements, 3 invalid input.
    """
    try:
        settings = read_settings(os.environ)
    except SettingsInvalid as error:
        say_invalid(context, str(error))
    candidate = shadow or settings.shadow_policies
    if candidate is None:
        say_invalid(context, "no candidate is named; set DOUANE_SHADOW_POLICIES or give `--shadow DIR`")
    context.obj = Paths(
        policies or settings.policies, candidate, (state_dir or settings.state_dir) / FOLDER, settings
    )


@canary.command()
@with_format
@click.pass_obj
@click.pass_context
def status(context: click.Context, paths: Paths, form: str) -> None:
    """Show what the candidate has done otherwise so far, the most frequent first."""
    live, candidate, total = looked_at(context, paths, form)
    if form == "json":
        said = {"live": named(live), "candidate": named(candidate), **total.model_dump(mode="json")}
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo(f"live       {live.revision} (serial {live.serial})")
        click.echo(f"candidate  {candidate.revision} (serial {candidate.serial})")
        click.echo(f"judged     {total.judged} requests, {total.disagreements} otherwise")
        for kind, count in sorted(total.kinds.items(), key=lambda one: -one[1]):
            click.echo(f"  {count:>7}  {kind}")
        for group in total.groups[:SHOWN]:
            print_group(group)
        if (more := len(total.groups) - SHOWN) > 0:
            click.echo(f"and {more} more groups; `--format json` lists them")
        if total.unlisted:
            click.echo(f"{total.unlisted} more were only counted")
        if total.failed:
            click.echo(f"{total.failed} requests could not be judged; the gateway's log says why")
    context.exit(FAILED if total.disagreements or total.failed else GOOD)


@canary.command("promote")
@click.option("--min-requests", type=int, default=1, show_default=True, help="Refuse with fewer judged.")
@click.option("--accept-newly-allowed", is_flag=True, help="Promote although it permits what is not today.")
@with_format
@click.pass_obj
@click.pass_context
def promote_command(
    context: click.Context, paths: Paths, min_requests: int, accept_newly_allowed: bool, form: str
) -> None:
    """Check the candidate once more, and put it in the place of the live bundle.

    Running gateways load it as they load any change, with every check, and record that.
    """
    live, candidate, total = looked_at(context, paths, form)
    loosening = sum(count for kind, count in total.kinds.items() if kind in LOOSENING)
    refusal = None
    if candidate.revision == live.revision:
        refusal = "the candidate is the live bundle already"
    elif candidate.serial <= live.serial:
        refusal = (
            f"the candidate's serial {candidate.serial} is not above the live one's, {live.serial}; "
            f"give it {live.serial + 1} in `bundle.yaml`"
        )
    elif total.judged < min_requests:
        refusal = f"{total.judged} requests were judged, and `--min-requests` asks for {min_requests}"
    elif total.failed:
        refusal = f"{total.failed} requests could not be judged; see the gateway's log before promoting"
    elif loosening and not accept_newly_allowed:
        refusal = (
            f"for {loosening} requests the candidate permits what the live bundle does not; "
            "read `douane policy canary status`, and give `--accept-newly-allowed` if that is meant"
        )
    refusal = refusal or unvouched(paths, candidate)
    if refusal is not None:
        say(form, {"promoted": False, "reason": refusal}, f"not promoted: {refusal}", err=True)
        context.exit(FAILED)
    try:
        kept = promote(paths.live, paths.candidate, live.serial)
    except OSError as error:
        say_invalid(context, f"`{paths.live}` cannot be replaced: {error.strerror}")
    before = f"; the one before is kept in {kept}" if kept is not None else ""
    document = {"promoted": True, "candidate": named(candidate), "kept": str(kept) if kept else None}
    say(form, document, f"promoted: {candidate.revision} (serial {candidate.serial}) is live{before}")


@canary.command("drop")
@with_format
@click.pass_obj
@click.pass_context
def drop_command(context: click.Context, paths: Paths, form: str) -> None:
    """Move the candidate aside; running gateways stop asking it."""
    try:
        revision = load_bundle(paths.candidate).revision
    except (PolicyInvalid, PolicyTestsFailed, PolicyClaimsFailed):
        revision = "broken"  # the more reason to drop it
    if not (paths.candidate.exists() or paths.candidate.is_symlink()):
        say_invalid(context, f"there is no candidate at `{paths.candidate}`")
    try:
        aside = drop(paths.candidate, revision)
    except OSError as error:
        say_invalid(context, f"`{paths.candidate}` cannot be moved: {error.strerror}")
    text = f"dropped: the candidate is in {aside}" if aside is not None else "dropped: the link is removed"
    say(form, {"dropped": True, "moved_to": str(aside) if aside else None}, text)


def unvouched(paths: Paths, candidate: Bundle) -> str | None:
    """Why gateways with these settings would not take the candidate: for its signatures, or its serial."""
    try:
        trust, serials = vouching_of(paths.settings)
        trust.require(read_directory(paths.candidate), candidate.serial)
        serials.check(candidate.revision, candidate.serial)
    except (PolicyUntrusted, SettingsInvalid) as error:
        return f"the gateway would not take it: {error}"
    return None


def looked_at(context: click.Context, paths: Paths, form: str) -> tuple[Bundle, Bundle, SavedTally]:
    """Both bundles, with every check that a load makes, and what all workers have counted."""
    try:
        live, candidate = load_bundle(paths.live), load_bundle(paths.candidate)
        tallies = read_tallies(paths.counts)
    except PolicyInvalid as error:
        exit_invalid(context, error, form)
    except (PolicyTestsFailed, PolicyClaimsFailed) as error:
        say(form, {"valid": False, "reason": str(error)}, str(error), err=True)
        context.exit(FAILED)
    except OSError as error:
        say_invalid(context, f"`{paths.counts}` cannot be read: {error.strerror}")
    return live, candidate, added_up(tallies, live.revision, candidate.revision, candidate.serial)


def print_group(group: SavedGroup) -> None:
    labels = ", ".join(group.labels) or "labels unknown"
    click.echo(f"{group.count} × {group.kind}: {group.model or '?'}, {group.zone or '?'}, {labels}")
    click.echo(f"    live       {group.live}" + (f" by {group.live_rule}" if group.live_rule else ""))
    click.echo(
        f"    candidate  {group.candidate}" + (f" by {group.candidate_rule}" if group.candidate_rule else "")
    )
    for title, grants in (("gained", group.gained), ("lost", group.lost)):
        if grants:
            click.echo(f"    {title:<9}  {', '.join(grants)}")
    if group.request is not None:
        click.echo(f"    for one    {group.request} ({group.last})")


def named(bundle: Bundle) -> dict[str, object]:
    return {"revision": bundle.revision, "serial": bundle.serial}


def say(form: str, document: dict[str, object], text: str, *, err: bool = False) -> None:
    if form == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(text, err=err)


def say_invalid(context: click.Context, text: str) -> NoReturn:
    click.echo(f"error: {text}", err=True)
    context.exit(INVALID)
    raise AssertionError("exit returned")
