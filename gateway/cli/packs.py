"""`douane policy packs` and `douane policy add`: the packs that ship, and how a bundle adopts one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gateway.cli.policy_command import DIRECTORY, FAILED, GOOD, PolicyCommand, exit_invalid, with_format
from gateway.cli.proof import print_proof
from gateway.cli.runs import print_run
from gateway.policy.library import adopting, pack_called, shipped, write_pack
from gateway.policy.load import compile_files
from gateway.policy.problems import PolicyInvalid
from gateway.policy.proof import prove
from gateway.policy.runner import run_cases
from gateway.policy.source.directory import read_directory


@click.command(cls=PolicyCommand)
@with_format
def packs(form: str) -> None:
    """List the packs of rules that ship, what each needs of a bundle, and where its example lies."""
    found = shipped()
    if form == "json":
        said = [
            {
                "name": name,
                "version": pack.about.version,
                "title": pack.about.title,
                "notice": pack.about.notice,
                "needs": needs(pack.about.needs.model_dump(exclude_none=True)),
                "example": str(pack.example),
            }
            for name, pack in found.items()
        ]
        click.echo(json.dumps({"packs": said}, indent=2))
        return
    for name, pack in found.items():
        click.echo(f"{name} (version {pack.about.version}): {pack.about.title}")
        for key, words in needs(pack.about.needs.model_dump(exclude_none=True)).items():
            click.echo(f"    needs {key}: {', '.join(words)}")
        click.echo(f"    example: {pack.example}")
        click.echo(f"    {pack.about.notice}")


@click.command(cls=PolicyCommand)
@click.argument("pack", metavar="PACK")
@DIRECTORY
@with_format
@click.pass_context
def add(context: click.Context, pack: str, directory: Path, form: str) -> None:
    """Copy the pack PACK into the bundle in DIR, as `adopted/PACK/`: from then on its rules are in force.

    Nothing is written when the bundle lacks a word that the pack needs. When an example or a claim no longer
    holds, the pack is adopted and the status is 1: the bundle does not load until that is put right.
    """
    try:
        chosen = pack_called(pack)
        files = read_directory(directory)
        compile_files(files)  # what was wrong before is said before, and not of the pack
        loaded = compile_files(adopting(files, chosen))
    except PolicyInvalid as error:
        exit_invalid(context, error, form)
    written = [str(path) for path in write_pack(chosen, directory)]
    run, proof = run_cases(loaded.bundle, loaded.cases), prove(loaded.bundle, loaded.claims)
    good = run.passed and proof.holds
    if form == "json":
        said = {
            "adopted": chosen.about.name,
            "version": chosen.about.version,
            "written": written,
            "loads": good,
            "tests": run.wire(),
            "claims": proof.wire()["claims"],
        }
        click.echo(json.dumps(said, indent=2))
    else:
        for path in written:
            click.echo(f"wrote {path}")
        print_run(run, verbose=False)
        print_proof(proof, verbose=False)
        if not good:
            click.echo(f"`{pack}` is adopted, but the bundle does not load until these hold")
    context.exit(GOOD if good else FAILED)


def needs(asked: dict[str, list[str]]) -> dict[str, list[str]]:
    """What a pack needs, without what it does not ask for."""
    return {key: words for key, words in asked.items() if words}
