"""`douane policy new-signing-key`, `public-key`, `sign`, `signatures`: vouching for a bundle, and who did."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click

from gateway.cli.policy_command import (
    DIRECTORY,
    FAILED,
    GOOD,
    INVALID,
    InvalidUsage,
    PolicyCommand,
    exit_invalid,
    read_or_exit,
    with_format,
)
from gateway.cli.printable import printable
from gateway.cli.proof import print_proof
from gateway.cli.runs import print_run
from gateway.policy.problems import PolicyInvalid
from gateway.policy.proof import prove
from gateway.policy.runner import run_cases
from gateway.policy.signatures import Judged, Statement, sign
from gateway.policy.source.directory import SIGNATURES, read_directory
from gateway.policy.summary import serial_of
from gateway.policy.trust import POLICY_KEYS, Trust, load_keys, signers_of
from gateway.receipts.jwk import PublicKey
from gateway.receipts.keys import SigningKeyInvalid, create_key, load_signing_key
from gateway.receipts.signer import SigningKey

PATH = click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", re.ASCII)


@click.command("new-signing-key", cls=PolicyCommand)
@PATH
@with_format
@click.pass_context
def new_signing_key(context: click.Context, path: Path, form: str) -> None:
    """Make a key that signs bundles, in the new file PATH (mode 0600), and print its key id."""
    try:
        key = create_key(path)
    except SigningKeyInvalid as error:
        exit_unusable(context, error, form)
    click.echo(json.dumps({"written": str(path), "kid": key.kid}) if form == "json" else key.kid)


@click.command("public-key", cls=PolicyCommand)
@PATH
@with_format
@click.pass_context
def public_key(context: click.Context, path: Path, form: str) -> None:
    """Print the public half of the key in PATH, for `policy_trusted_keys`: PEM, or with JSON a JWK."""
    public = own_key(context, path, form).public
    click.echo(json.dumps(public.jwk(), indent=2) if form == "json" else public.pem().decode().rstrip())


@click.command("sign", cls=PolicyCommand)
@DIRECTORY
@click.option("--key", "path", required=True, type=click.Path(path_type=Path), help="The signing key.")
@click.option("--as", "name", help="Name the file `NAME.jws`; without it, it is named after the key.")
@with_format
@click.pass_context
def sign_command(context: click.Context, directory: Path, path: Path, name: str | None, form: str) -> None:
    """Vouch for the bundle in DIR as it is: writes `DIR/signatures/<key id>.jws`.

    A bundle that would not load is not signed: with a failing example or claim the status is 1.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise InvalidUsage("`--as` takes letters, digits, `.`, `_` and `-`, such as `--as security`", context)
    key = own_key(context, path, form)
    files, loaded = read_or_exit(context, directory, form)
    run, proof = run_cases(loaded.bundle, loaded.cases), prove(loaded.bundle, loaded.claims)
    if not (run.passed and proof.holds):
        if form == "json":
            said = {"signed": False, "tests": run.wire(), "claims": proof.wire()["claims"]}
            click.echo(json.dumps(said, indent=2))
        else:
            print_run(run, verbose=False)
            print_proof(proof, verbose=False)
            click.echo("not signed: the bundle does not load until these hold", err=True)
        context.exit(FAILED)
    bundle = loaded.bundle
    signed_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    jws = sign(Statement(files.revision, bundle.serial, signed_at), key)
    try:
        written = write_signature(directory, name or key.kid, jws)
    except OSError as error:
        exit_unusable(context, f"`{error.filename}` cannot be written: {error.strerror}", form)
    if form == "json":
        said = {
            "signed": True,
            "written": str(written),
            "kid": key.kid,
            "policy_revision": bundle.revision,
            "serial": bundle.serial,
            "signed_at": signed_at,
        }
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo(f"signed {bundle.revision} (serial {bundle.serial}) with `{key.kid}`: wrote {written}")


@click.command("signatures", cls=PolicyCommand)
@DIRECTORY
@click.option(
    "--trusted",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A public key to believe, PEM or JWK (set); may repeat.",
)
@click.option(
    "--needed", type=click.IntRange(min=1), default=1, show_default=True, help="How many must have signed."
)
@with_format
@click.pass_context
def signatures(
    context: click.Context, directory: Path, paths: tuple[Path, ...], needed: int, form: str
) -> None:
    """List who signed the bundle in DIR and whether each signature counts.

    Ends with 0 when as many different trusted keys as `--needed` signed it as it is, 1 when not, 3 when
    nothing can be told, as without any `--trusted`.
    """
    try:
        known = load_keys(paths)
        files = read_directory(directory)
    except SigningKeyInvalid as error:
        exit_unusable(context, error, form)
    except PolicyInvalid as error:
        exit_invalid(context, error, form)
    trust = Trust({thumbprint: key for thumbprint, (key, _) in known.items()}, needed)
    serial = serial_of(files)
    found = trust.judged(files, serial)
    signers = signers_of(found)
    good = len(signers) >= needed
    if form == "json":
        said = {
            "revision": files.revision,
            "serial": serial,
            "good": good,
            "needed": needed,
            "signed_by": signers,
            "signatures": [wire(one, key_file(one, known)) for one in found],
        }
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo(f"{files.revision} (serial {'unreadable' if serial is None else serial})")
        for one in found:
            mark = "good" if one.good else "BAD " if paths else "?   "
            by = f" ({key_file(one, known)})" if key_file(one, known) else ""
            click.echo(printable(f"{mark}  {one.file}: {one.said}{by}"))
        click.echo(summed_up(len(found), len(signers), needed, bool(paths)))
    context.exit(INVALID if not paths else GOOD if good else FAILED)


def write_signature(directory: Path, name: str, jws: str) -> Path:
    """Writes a signature in one step: a gateway that watches sees the old file or the new one. Raises
    OSError."""
    folder = directory / SIGNATURES
    folder.mkdir(exist_ok=True)
    path, draft = folder / f"{name}.jws", folder / f".{name}.draft"
    draft.write_text(f"{jws}\n", encoding="ascii")
    draft.replace(path)
    return path


def summed_up(found: int, signers: int, needed: int, told: bool) -> str:
    if not told:
        return "nothing was checked: no key is trusted; give the signers' public keys with `--trusted`"
    if not found:
        return "nobody has signed this bundle; sign it with `douane policy sign DIR --key PATH`"
    return f"signed as it is by {signers} of the trusted keys; {needed} needed"


def key_file(one: Judged, known: Mapping[str, tuple[PublicKey, Path]]) -> Path | None:
    """Where the key that a signature names was given, if it was."""
    return known[one.kid][1] if one.kid is not None and one.kid in known else None


def wire(one: Judged, file: Path | None) -> dict[str, object]:
    statement = one.statement
    return {
        "file": one.file,
        "good": one.good,
        "standing": one.standing.value,
        "said": one.said,
        "kid": one.kid,
        "key_file": None if file is None else str(file),
        "policy_revision": statement and statement.policy_revision,
        "serial": statement and statement.serial,
        "signed_at": statement and statement.signed_at,
    }


def own_key(context: click.Context, path: Path, form: str) -> SigningKey:
    """The private key in a file, or exit status 3; a demo key signs no policy."""
    try:
        key = load_signing_key(path, POLICY_KEYS)
        if key.demo:
            raise SigningKeyInvalid(f"`{path}` is a demo key; make one with `{POLICY_KEYS.new} PATH`")
    except SigningKeyInvalid as error:
        exit_unusable(context, error, form)
    return key


def exit_unusable(context: click.Context, error: object, form: str) -> NoReturn:
    """Says what cannot be used, and ends with status 3."""
    if form == "json":
        click.echo(json.dumps({"valid": False, "problem": str(error)}))
    else:
        click.echo(f"error: {error}", err=True)
    context.exit(INVALID)
    raise AssertionError("exit returned")
