"""`douane receipt`: keys for signing receipts, and checking a receipt offline."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli.printable import printable
from gateway.keys.opening import kms_wrapping
from gateway.receipts.delivery import NoReceipt, find_receipt
from gateway.receipts.explain import explain
from gateway.receipts.jwk import PublicKey
from gateway.receipts.keys import KeyLock, SigningKeyInvalid, create_key, load_retired, load_signing_key
from gateway.receipts.pinned import load_pinned
from gateway.receipts.rotation import rotate_key
from gateway.receipts.signer import ReceiptSigner
from gateway.receipts.verify import (
    OpenedReceipt,
    ReceiptMalformed,
    ReceiptNotGenuine,
    answer_matches,
    nonce_matches,
    read_unverified,
    request_matches,
    verify_receipt,
)
from gateway.settings import SettingsInvalid, read_settings

INPUT_BYTES_MAX: Final = 256 * 1024 * 1024
_LITERAL: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_UNPINNED: Final = (
    "not verified: no key was pinned; give the gateway's public key with `--key`, "
    "from a source that you trust (not from the receipt)"
)


@dataclass(frozen=True, slots=True)
class Result:
    """What `verify` prints. `request`, `answer` and `nonce` are `matches`, `differs` or `not checked`."""

    exit_code: int
    problem: str | None
    opened: OpenedReceipt | None
    request: str = "not checked"
    answer: str = "not checked"
    nonce: str = "not checked"


class InvalidInput(Exception):
    """Something that was named on the command line cannot be read."""


@click.group()
def receipt() -> None:
    """Make receipt keys, publish them, and check receipts."""


@receipt.command()
@click.argument("source", metavar="[RECEIPT|FILE|-]", default="-")
@click.option(
    "--key", "pinned", type=click.Path(path_type=Path), help="Public key to believe: PEM or JWK set."
)
@click.option("--request", "request_file", type=click.Path(path_type=Path), help="The body that was sent.")
@click.option("--answer", "answer_file", type=click.Path(path_type=Path), help="The body or stream received.")
@click.option("--nonce", help="The `x-douane-nonce` that was sent.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def verify(
    context: click.Context,
    source: str,
    pinned: Path | None,
    request_file: Path | None,
    answer_file: Path | None,
    nonce: str | None,
    form: str,
) -> None:
    """Check a receipt offline and explain it in words.

    RECEIPT is the value of `x-douane-receipt`; FILE holds it, or saved response headers, or a saved stream.
    Exit status: 0 genuine, 1 not genuine or a digest or the nonce differs, 3 not readable or no key pinned.
    """
    try:
        jws = find_receipt(_read_source(source))
        keys = load_pinned(pinned) if pinned is not None else None
        request = _read(request_file) if request_file is not None else None
        answer = _read(answer_file) if answer_file is not None else None
        result = _check(jws, keys, request, answer, nonce)
    except (NoReceipt, SigningKeyInvalid, InvalidInput) as error:
        result = Result(3, str(error), None)
    if form == "json":
        click.echo(json.dumps(_document(result), indent=2))
    else:
        _print(result)
    context.exit(result.exit_code)


@receipt.command("new-key")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--demo", is_flag=True, help="Mark the key, and all its receipts, as worth nothing.")
@click.pass_context
def new_key(context: click.Context, path: Path, demo: bool) -> None:
    """Make a signing key in the new file PATH (mode 0600) and print its key id."""
    try:
        key = create_key(path, demo=demo)
    except SigningKeyInvalid as error:
        _fail(context, error)
    click.echo(key.kid)


@receipt.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    envvar="DOUANE_STATE_DIR",
    default=Path("var"),
    show_default=True,
    help="Directory of the gateway's keys (DOUANE_STATE_DIR).",
)
@click.pass_context
def rotate(context: click.Context, state_dir: Path) -> None:
    """Make a new signing key, and keep the old one's public half published.

    Running gateways over this directory take it within `policy_poll_s`, or at once on SIGHUP. The old private
    key is gone afterwards; the receipts that it signed stay good.
    """
    try:
        rotated = rotate_key(state_dir, key_lock())
    except SigningKeyInvalid as error:
        _fail(context, error)
    click.echo(f"before {rotated.before} (public half kept in {rotated.retired})")
    click.echo(f"after  {rotated.after}")


@receipt.command("public-key")
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_context
def public_key(context: click.Context, path: Path) -> None:
    """Print the public half of the signing key in PATH, to pin it or to keep it published."""
    try:
        click.echo(load_signing_key(path, lock=key_lock()).public.pem().decode(), nl=False)
    except SigningKeyInvalid as error:
        _fail(context, error)


@receipt.command("jwks")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--retired", type=click.Path(path_type=Path), help="Directory of earlier public keys (*.pem).")
@click.pass_context
def print_jwks(context: click.Context, path: Path, retired: Path | None) -> None:
    """Print the JWK set that the gateway publishes for the signing key in PATH."""
    try:
        earlier = load_retired(retired) if retired is not None else ()
        click.echo(
            json.dumps(ReceiptSigner(load_signing_key(path, lock=key_lock()), earlier).jwks(), indent=2)
        )
    except SigningKeyInvalid as error:
        _fail(context, error)


def _check(
    jws: str,
    keys: Mapping[str, PublicKey] | None,
    request: bytes | None,
    answer: bytes | None,
    nonce: str | None,
) -> Result:
    try:
        opened = read_unverified(jws) if keys is None else verify_receipt(jws, keys)
    except ReceiptMalformed as error:
        return Result(3, f"not a receipt: {error}", None)
    except ReceiptNotGenuine as error:
        return Result(1, f"not genuine: {error}", None)
    asked = "not checked" if request is None else _word(request_matches(opened.receipt, request))
    given = "not checked" if answer is None else _word(answer_matches(opened.receipt, answer))
    marked = "not checked" if nonce is None else _word(nonce_matches(opened.receipt, nonce))
    if keys is None:
        return Result(3, _UNPINNED, opened, asked, given, marked)
    words = (("request", asked), ("answer", given), ("nonce", marked))
    differing = [name for name, word in words if word == "differs"]
    if differing:
        text = f"the receipt is genuine, but it is not about this {' and this '.join(differing)}"
        return Result(1, text, opened, asked, given, marked)
    return Result(0, None, opened, asked, given, marked)


def _word(matches: bool) -> str:
    return "matches" if matches else "differs"


def _read_source(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read(INPUT_BYTES_MAX)
    return source.encode() if _LITERAL.fullmatch(source) and source.startswith("eyJ") else _read(Path(source))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(INPUT_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"`{path}` cannot be read: {error.strerror}") from error
    if len(content) > INPUT_BYTES_MAX:
        raise InvalidInput(f"`{path}` is larger than {INPUT_BYTES_MAX} bytes")
    return content


def _document(result: Result) -> dict[str, object]:
    opened = result.opened
    return {
        "verified": result.exit_code == 0,
        "problem": result.problem,
        "kid": opened.kid if opened else None,
        "demo": opened.demo if opened else None,
        "emulated": opened.receipt.emulated if opened else None,
        "request": result.request,
        "answer": result.answer,
        "nonce": result.nonce,
        "receipt": asdict(opened.receipt) if opened else None,
    }


def _print(result: Result) -> None:
    console = Console(highlight=False, soft_wrap=False)
    if result.opened is not None:
        table = Table("claim", "value", "what it says", box=None, pad_edge=False)
        for row in explain(result.opened):
            value = Text(printable(row.value), overflow="fold")
            table.add_row(Text(row.claim), value, Text(printable(row.meaning)))
        console.print(table)
        console.print(Text(f"request: {result.request}   answer: {result.answer}   nonce: {result.nonce}"))
        if result.opened.demo:
            console.print(Text("signed with a demo key: it proves nothing to anybody", style="bold yellow"))
    if result.problem is None:
        console.print(Text("verified: signed by a pinned key", style="bold green"), soft_wrap=True)
    else:
        console.print(Text(printable(result.problem), style="bold red"), soft_wrap=True)


def _fail(context: click.Context, error: SigningKeyInvalid) -> NoReturn:
    click.echo(f"error: {error}", err=True)
    context.exit(3)


def key_lock() -> KeyLock | None:
    """What the settings lock keys with. Raises SigningKeyInvalid."""
    try:
        return kms_wrapping(read_settings(os.environ))
    except SettingsInvalid as error:
        raise SigningKeyInvalid(str(error)) from error
