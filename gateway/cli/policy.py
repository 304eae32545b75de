"""`douane policy`: what whoever writes, reviews or audits a policy does with it.

Exit status of every command: 0 good, 1 an example or claim of the bundle failed, 2 denied, 3 invalid input.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from pathlib import Path

import click

from gateway.cli.detect import detect
from gateway.cli.difference import print_difference
from gateway.cli.packs import add, packs
from gateway.cli.policy_canary import canary
from gateway.cli.policy_command import (
    DENIED,
    DIRECTORY,
    FAILED,
    GOOD,
    InvalidUsage,
    PolicyGroup,
    exit_invalid,
    load_or_exit,
    read_or_exit,
    with_format,
)
from gateway.cli.policy_signing import new_signing_key, public_key, sign_command, signatures
from gateway.cli.proof import print_entrance, print_proof
from gateway.cli.runs import print_run
from gateway.facts import Facts
from gateway.policy.cedar import export_cedar
from gateway.policy.compare import compare
from gateway.policy.entrances import entrances_of
from gateway.policy.explain import Explanation, explain
from gateway.policy.json_schema import schemas, write_schemas
from gateway.policy.lint import lint
from gateway.policy.load import Loaded
from gateway.policy.problems import PolicyInvalid, Problem
from gateway.policy.proof import prove
from gateway.policy.runner import run_cases
from gateway.policy.source.cases import Known, RequestEntry, facts_of
from gateway.policy.source.check import check as check_document
from gateway.policy.source.document import parse_document


@click.group(cls=PolicyGroup)
def policy() -> None:
    """Check, test, prove, compare, explain, sign and export policy bundles."""


policy.add_command(packs)
policy.add_command(add)
policy.add_command(detect)
policy.add_command(new_signing_key)
policy.add_command(public_key)
policy.add_command(sign_command)
policy.add_command(signatures)
policy.add_command(canary)


@policy.command()
@DIRECTORY
@with_format
@click.pass_context
def check(context: click.Context, directory: Path, form: str) -> None:
    """Check all of the bundle in DIR: files, names, geography, antitone labels, its examples and claims.

    What `lint` finds is shown as a warning.
    """
    files, loaded = read_or_exit(context, directory, form)
    run = run_cases(loaded.bundle, loaded.cases)
    proof = prove(loaded.bundle, loaded.claims)
    findings = lint(files, loaded)
    bundle = loaded.bundle
    if form == "json":
        said = {
            "valid": True,
            "revision": bundle.revision,
            "serial": bundle.serial,
            "rules": len(bundle.rules),
            "places": len(bundle.places),
            "tenants": len(bundle.tenants),
            "classes": bundle.table.classes,
            "tests": run.wire(),
            "claims": proof.wire()["claims"],
            "packs": [pack.name for pack in loaded.packs],
            "warnings": [finding.wire() for finding in findings],
        }
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo(f"{bundle.revision} (serial {bundle.serial})")
        click.echo(
            f"{len(bundle.rules)} rules, {len(bundle.places)} places, {len(bundle.tenants)} tenants, "
            f"{bundle.table.classes} classes; more labels never permit more"
        )
        if loaded.packs:
            names = ", ".join(f"{pack.name} (version {pack.version})" for pack in loaded.packs)
            click.echo(f"adopted packs: {names}")
        if files.signatures:
            count = len(files.signatures)
            click.echo(f"signatures: {count}, not checked here; see `douane policy signatures`")
        print_run(run, verbose=False)
        print_proof(proof, verbose=False)
        for finding in findings:
            click.echo(f"warning: {finding.problem.text()}")
    context.exit(GOOD if run.passed and proof.holds else FAILED)


@policy.command("lint")
@DIRECTORY
@with_format
@click.pass_context
def lint_command(context: click.Context, directory: Path, form: str) -> None:
    """List what in DIR does nothing: rules, hops, routes, labels, examples and claims. Ends with 1 if any."""
    files, loaded = read_or_exit(context, directory, form)
    findings = lint(files, loaded)
    if form == "json":
        said = {"clean": not findings, "findings": [finding.wire() for finding in findings]}
        click.echo(json.dumps(said, indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.problem.text()} [{finding.kind}]")
        click.echo(f"{len(findings)} findings" if findings else "clean: every line does something")
    context.exit(FAILED if findings else GOOD)


@policy.command()
@DIRECTORY
@with_format
@click.pass_context
def test(context: click.Context, directory: Path, form: str) -> None:
    """Run the examples in DIR/tests: one line each; a right outcome by the wrong rule fails."""
    loaded = load_or_exit(context, directory, form)
    run = run_cases(loaded.bundle, loaded.cases)
    if form == "json":
        click.echo(json.dumps(run.wire(), indent=2))
    else:
        print_run(run, verbose=True)
    context.exit(GOOD if run.passed else FAILED)


@policy.command("prove")
@DIRECTORY
@with_format
@click.pass_context
def prove_command(context: click.Context, directory: Path, form: str) -> None:
    """Prove the claims of DIR for every request that there could be; list what each entrance cannot serve.

    A claim that does not hold is shown with the smallest request that breaks it, and the rule that lets it.
    """
    loaded = load_or_exit(context, directory, form)
    proof = prove(loaded.bundle, loaded.claims)
    entrances = entrances_of(loaded.bundle)
    if form == "json":
        doors = [entrance.wire() for entrance in entrances]
        said = {"revision": loaded.bundle.revision, **proof.wire(), "entrances": doors}
        click.echo(json.dumps(said, indent=2))
    else:
        print_proof(proof, verbose=True)
        for entrance in entrances:
            print_entrance(entrance, loaded.bundle)
    context.exit(GOOD if proof.holds else FAILED)


@policy.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@with_format
@click.pass_context
def diff(context: click.Context, old: Path, new: Path, form: str) -> None:
    """List what becomes allowed and denied from the bundle OLD to NEW, for every request that there could be.

    Ends with 1 when anything is newly allowed: for a check on a change, see docs/policy-review.md.
    """
    old_files, before = read_or_exit(context, old, form, named=True)
    new_files, after = read_or_exit(context, new, form, named=True)
    found = compare(before, after, old_files, new_files)
    if form == "json":
        click.echo(json.dumps(found.wire(), indent=2))
    else:
        print_difference(found, before.bundle, after.bundle)
    context.exit(FAILED if found.newly_allows else GOOD)


@policy.command("explain")
@DIRECTORY
@click.option(
    "--request",
    "request",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="YAML or JSON with tenant, model and optionally key, purpose, labels; `-` is standard input.",
)
@with_format
@click.pass_context
def explain_command(context: click.Context, directory: Path, request: Path, form: str) -> None:
    """Say where a request may go and why: every candidate, the rule that decided, the values it saw."""
    loaded = load_or_exit(context, directory, form)
    try:
        facts = read_request(request, loaded)
    except PolicyInvalid as error:
        exit_invalid(context, error, form)
    found = explain(facts, loaded.bundle)
    if form == "json":
        click.echo(json.dumps(found.wire(), indent=2))
    else:
        print_explanation(found)
    context.exit(GOOD if found.permitted else DENIED)


@policy.command()
@DIRECTORY
@click.option("--cedar", is_flag=True, help="As Cedar policies, entities and schema.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write three files there.")
@with_format
@click.pass_context
def export(context: click.Context, directory: Path, cedar: bool, out: Path | None, form: str) -> None:
    """Write the residency rules of DIR in another language."""
    if not cedar:
        raise InvalidUsage("name what to export: `--cedar`", context)
    found = export_cedar(load_or_exit(context, directory, form).bundle)
    entities = json.dumps(found.entities, indent=1) + "\n"
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        files = {
            "policies.cedar": found.policies,
            "entities.json": entities,
            "schema.cedarschema": found.schema,
        }
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
        names = [str(out / name) for name in files]
        click.echo(json.dumps({"written": names}) if form == "json" else "\n".join(names))
    elif form == "json":
        said = {"policies": found.policies, "entities": found.entities, "schema": found.schema}
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo(found.policies, nl=False)


@policy.command("new-key")
@click.option("--id", "key_id", default="main", show_default=True, help="The id of the key.")
@with_format
def new_key(key_id: str, form: str) -> None:
    """Make an API key. It is shown once; tenants.yaml gets its hash."""
    key = f"dk-{secrets.token_urlsafe(32)}"
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    if form == "json":
        click.echo(json.dumps({"key": key, "id": key_id, "sha256": sha256}))
    else:
        click.echo(f"key, shown this once: {key}")
        click.echo("under `keys:` of its tenant in tenants.yaml:")
        click.echo(f"      - id: {key_id}\n        sha256: {sha256}")


@policy.command("schema")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write one file each there.")
@with_format
def schema(out: Path | None, form: str) -> None:
    """Write JSON Schemas of the bundle's files, for editors."""
    if out is not None:
        names = [str(path) for path in write_schemas(out)]
        click.echo(json.dumps({"written": names}) if form == "json" else "\n".join(names))
    else:
        click.echo(json.dumps({name: json.loads(text) for name, text in schemas().items()}, indent=2))


def read_request(path: Path, loaded: Loaded) -> Facts:
    """The facts of a request file, collected as those of a real request are. Raises PolicyInvalid."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        hint = "name a YAML or JSON file with `tenant` and `model`"
        said = (error.strerror or "cannot be read").lower()
        raise PolicyInvalid([Problem(str(path), 0, None, said, hint)]) from None
    document = parse_document(str(path), content)
    entry, problems = check_document(document, RequestEntry)
    bundle = loaded.bundle
    facts = None
    if entry is not None:
        known = Known(
            vocabulary=bundle.vocabulary,
            places=bundle.places,
            tenants={tenant.id: tenant.caller for tenant in bundle.tenants.values()},
            keys={bundle.keys[sha256]: caller for sha256, caller in bundle.callers.items()},
            routes=bundle.routes,
            rules=[rule.id for rule in bundle.rules],
        )
        facts = facts_of(document, (), entry, known, problems)
    if facts is None:
        raise PolicyInvalid(problems)
    return facts


def print_explanation(found: Explanation) -> None:
    """One line for each candidate, under a denied one the values that its rule saw."""
    facts = found.facts
    click.echo("permitted" if found.permitted else "denied")
    click.echo(
        f"tenant {facts.tenant} ({facts.zone}), purpose {facts.purpose}, model {facts.model}, "
        f"labels {', '.join(facts.labels.names())}"
    )
    width = max(len(one.place) for one in found.candidates)
    for one in found.candidates:
        said = "yes" if one.verdict.allowed else "no "
        basis = f" ({one.verdict.basis})" if one.verdict.basis else ""
        click.echo(f"{one.action.value:<6} {one.place:<{width}} {said} {one.verdict.rule}{basis}")
        if not one.verdict.allowed:
            for condition, value in one.saw.items():
                click.echo(f"         {condition}: saw {value}")
            for missed in one.missed:
                click.echo(f"         {missed}")
    if found.alternative is not None:
        click.echo(f"nearest alternative: {found.alternative}")
