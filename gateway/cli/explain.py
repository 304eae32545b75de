"""`douane explain`: one request, from the audit alone, in words."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from gateway.audit.explained import Candidate, Explanation, Judged, Recorded
from gateway.audit.explained import explain as explain_records
from gateway.audit.reading import AuditUnreadable, Reading
from gateway.cli.printable import printable
from gateway.policy.bundle import Bundle
from gateway.policy.load import compile_files
from gateway.policy.problems import PolicyInvalid
from gateway.policy.rules import (
    ACTION_NOT_OFFERED,
    DEFAULT_DENY,
    MODEL_NOT_SERVED,
    STALE_FACTS,
    UNKNOWN_PLACE,
)
from gateway.policy.source.directory import read_directory
from gateway.receipts.delivery import NoReceipt, find_receipt
from gateway.receipts.keys import SigningKeyInvalid
from gateway.receipts.pinned import load_pinned
from gateway.receipts.receipt import Receipt
from gateway.receipts.verify import ReceiptMalformed, ReceiptNotGenuine, read_unverified, verify_receipt

FOUND, NOT_FOUND, UNREADABLE = 0, 1, 3
RECEIPT_BYTES_MAX: Final = 64 * 1024 * 1024
REQUEST_ID: Final = re.compile(r"req_[0-9a-f]{32}")
RECEIPT_ID: Final = re.compile(r"rcpt_[0-9a-f]{32}")
LITERAL: Final = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)

SKIPPED: Final = {
    "unavailable": "it had failed too often just before, and was given time to recover",
    "not_loaded": "it does not run this model at present",
    "unconfigured": "this gateway has no connection to it",
    "beyond_bound": "the route allows no more tries than those above",
    "not_on_route": "the route does not name it",
}
UNWRITTEN: Final = {
    DEFAULT_DENY: "no rule permits it, and what is not permitted is denied",
    MODEL_NOT_SERVED: "it does not serve this model",
    ACTION_NOT_OFFERED: "a place of its kind cannot do that",
    STALE_FACTS: "the request's facts are not known to this revision",
    UNKNOWN_PLACE: "the policy has no such place",
}
KINDS: Final = {
    "first": "asked first",
    "retry": "asked again, after a fault that may pass",
    "fallback": "asked next, because the place before had failed",
    "spill": "asked instead of a place that had too much to do",
    "hedge": "asked beside a place that had not answered yet",
    "context_window": "asked because the request did not fit another place's context",
    "content_filter": "asked because another place had withheld its answer",
}
ENDS: Final = {
    "answered": "it answered",
    "cancelled": "the client left",
    "outrun": "another place answered first",
    "withheld": "its content filter withheld the answer",
    "withdrawn": "the policy in force by then permitted it no longer, and nothing was sent",
}
OUTCOMES: Final = {
    "answered": "answered",
    "cached": "answered from the cache; no model was asked",
    "refused": "refused; nothing left the gateway",
    "failed": "failed; an error was delivered",
    "incomplete": "broken off before the answer was whole",
    "unfinished": "begun, and no end is recorded: it was under way, or a crash cut it off",
}
NEEDS: Final = {
    "read": "the gateway reads it",
    "record": "metadata is recorded",
    "cache": "the answer is kept for later",
}


class NotFound(Exception):
    """The audit does not hold what was asked for; says what was looked for and where."""


class NotReadable(Exception):
    """Something that was named on the command line cannot be used."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to look for: a request by its id, or by its receipt's id; and what a receipt says of the
    record.
    """

    request: str | None
    receipt_id: str | None
    receipt: Receipt | None
    genuine: bool | None  # None: no key was given to check the receipt with


@click.command("explain")
@click.argument("source", metavar="RECEIPT|REQUEST_ID")
@click.argument("more", nargs=-1, metavar="", type=click.Path(path_type=Path))
@click.option(
    "--audit", "paths", multiple=True, type=click.Path(path_type=Path), help="Audit files or directories."
)
@click.option(
    "--key", "pinned", type=click.Path(path_type=Path), help="Public key that the receipt must fit."
)
@click.option(
    "--policies", type=click.Path(path_type=Path), help="Bundle of the same revision: adds basis and files."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def explain(
    context: click.Context,
    source: str,
    more: tuple[Path, ...],
    paths: tuple[Path, ...],
    pinned: Path | None,
    policies: Path | None,
    form: str,
) -> None:
    """Say why a request went where it went, from the audit alone.

    Prints every place where it could have been answered, the rule that decided about each, and the numbers
    that the plan saw. RECEIPT is a receipt, or a file that holds one, or `-`; a receipt's id will do too.
    Several files: `--audit var/audit/*.jsonl`. Exit status: 0 found, 1 not found (or not genuine), 3
    unreadable.
    """
    try:
        asked = read_source(source, pinned)
        recorded = find((*paths, *more), asked)
        revision = recorded.first.link.fields.get("revision") if recorded.first is not None else None
        bundle = load(policies, revision) if policies is not None else None
        explanation = explain_records(recorded, bundle)
    except (NotFound, ReceiptNotGenuine) as error:
        context.exit(fail(str(error), form, NOT_FOUND))
    except (NotReadable, AuditUnreadable, NoReceipt, ReceiptMalformed, SigningKeyInvalid) as error:
        context.exit(fail(str(error), form, UNREADABLE))
    if form == "json":
        click.echo(json.dumps({**explanation.wire(), "receipt_verified": asked.genuine}, indent=2))
    else:
        for line in say(explanation, asked.genuine):
            click.echo(printable(line))
    context.exit(FOUND)


def fail(problem: str, form: str, status: int) -> int:
    if form == "json":
        click.echo(json.dumps({"error": problem}))
    else:
        click.echo(f"error: {printable(problem)}", err=True)
    return status


def read_source(source: str, pinned: Path | None) -> Asked:
    """Raises NoReceipt, NotReadable, ReceiptMalformed, ReceiptNotGenuine or SigningKeyInvalid."""
    if REQUEST_ID.fullmatch(source) or RECEIPT_ID.fullmatch(source):
        if pinned is not None:
            raise NotReadable("`--key` checks a receipt, and an id is none; give the receipt itself")
        is_request = source.startswith("req_")
        return Asked(source if is_request else None, None if is_request else source, None, None)
    jws = find_receipt(read_text(source))
    opened = read_unverified(jws) if pinned is None else verify_receipt(jws, load_pinned(pinned))
    receipt = opened.receipt
    return Asked(receipt.request.id, receipt.id, receipt, None if pinned is None else True)


def read_text(source: str) -> bytes:
    if LITERAL.fullmatch(source):
        return source.encode()
    if source == "-":
        return sys.stdin.buffer.read(RECEIPT_BYTES_MAX)
    try:
        with Path(source).open("rb") as file:
            return file.read(RECEIPT_BYTES_MAX)
    except OSError as error:
        text = f"`{source}` is no request id and no receipt, and cannot be read as a file: {error.strerror}"
        raise NotReadable(text) from error


def find(paths: tuple[Path, ...], asked: Asked) -> Recorded:
    """Raises NotFound, NotReadable or AuditUnreadable."""
    reading = Reading.of(paths)
    request = asked.request
    if request is None and asked.receipt_id is not None:
        for line in reading.holding(asked.receipt_id):
            if line.link.fields.get("receipt") == asked.receipt_id:
                request = line.link.fields.get("request")
        if request is None:
            raise NotFound(f"no record names the receipt `{asked.receipt_id}`; give all files of the replica")
    assert request is not None
    recorded = Recorded()
    for line in reading.holding(request):
        if line.link.fields.get("request") == request:
            recorded.take(line)
    if reading.problems:
        raise NotReadable(f"{reading.problems[0]}; look at the file with `douane audit verify`")
    if recorded.first is None and recorded.end is None:
        if asked.receipt is not None and asked.receipt.audit is None:
            raise NotFound("the receipt says that nothing of this request was recorded: its labels forbid it")
        raise NotFound(f"no record is about `{request}`; give all files of every replica")
    require_the_named(recorded, asked)
    return recorded


def require_the_named(recorded: Recorded, asked: Asked) -> None:
    """Raises NotFound unless the record that was found is the very one that the receipt names."""
    if asked.receipt is None or asked.receipt.audit is None:
        return
    named, line = asked.receipt.audit, recorded.first or recorded.end
    assert line is not None
    if (line.link.replica, line.link.sequence, line.link.hash) != (named.replica, named.sequence, named.hash):
        raise NotFound(
            f"the receipt names record {named.sequence} of replica `{named.replica}` with hash {named.hash}, "
            f"and {line.place} is another: this audit is not the one that was written then"
        )


def load(policies: Path, revision: str | None) -> Bundle:
    """Raises NotReadable unless the directory holds just the revision that decided."""
    try:
        bundle = compile_files(read_directory(policies)).bundle
    except PolicyInvalid as error:
        raise NotReadable(f"`{policies}`: {error}") from error
    if bundle.revision != revision:
        raise NotReadable(
            f"`{policies}` is {bundle.revision}, and {revision} decided about this request: check it out"
        )
    return bundle


def say(told: Explanation, genuine: bool | None) -> Iterator[str]:
    """The explanation, line by line."""
    yield f"request {told.request}"
    if genuine:
        yield "  the receipt is genuine, and names the very record that was found"
    if told.tenant is not None:
        zone = f" ({told.zone})" if told.zone else ""
        yield f"  asked by tenant `{told.tenant}`{zone} at {told.time}"
    if told.model is not None:
        yield f"  for the model `{told.model}`, for the purpose `{told.purpose}`"
    if told.labels:
        found = f"; detectors found {', '.join(told.detected)}" if told.detected else ""
        yield f"  judged to carry: {', '.join(told.labels)}{found}"
    if told.revision is not None:
        yield f"  judged under policy {told.revision} (serial {told.serial})"
    yield f"  recorded as number {told.sequence} of replica {told.replica} ({told.record}), hash {told.hash}"
    yield ""
    yield f"outcome: {OUTCOMES.get(told.outcome, told.outcome)}{ending(told)}"
    if told.rules:
        yield f"decided by: {', '.join(told.rules)}"
    if told.code == "residency_denied" and not told.rules:
        yield "  the request carries a label above what this tenant may carry (its `ceiling`)"
    if not told.complete:
        yield "no place was considered before that, or the record is of a version that did not keep them"
        return
    yield ""
    route = f", in the order of route `{told.route}`" if told.route is not None else ""
    yield f"where a model could have answered{route}:"
    for one in told.candidates:
        yield from say_candidate(one)
    yield ""
    yield "what this gateway itself does with a request:"
    for need in told.needs:
        verb = NEEDS.get(need.action, need.action)
        yield f"  {need.place}: {verb}: {'allowed' if need.allowed else 'denied'} {by(need)}"


def ending(told: Explanation) -> str:
    parts = [f"HTTP status {told.status}"] if told.status is not None else []
    if told.code is not None:
        parts.append(f"`{told.code}`")
    if told.answered_at is not None:
        parts.append(f"at {told.answered_at}")
    return f" ({', '.join(parts)})" if parts else ""


def by(judged: Judged) -> str:
    if judged.rule in UNWRITTEN:
        return f"(`{judged.rule}`: {UNWRITTEN[judged.rule]})"
    text = f"by rule `{judged.rule}`"
    if judged.basis is not None:
        text += f", on the basis of {judged.basis}"
    return text + (f" ({judged.file}:{judged.line})" if judged.file is not None else "")


def say_candidate(one: Candidate) -> Iterator[str]:
    mark = f"{one.order}." if one.order is not None else "-"
    yield f"  {mark:<2} {one.judged.place}: {'allowed' if one.judged.allowed else 'denied'} {by(one.judged)}"
    if one.skipped == "unsupported":
        yield f"     not tried: it cannot honour {', '.join(f'`{name}`' for name in one.cannot)}"
    elif one.skipped:
        yield f"     not tried: {SKIPPED.get(one.skipped, one.skipped)}"
    if one.saw:
        yield f"     the plan saw: {'; '.join(say_numbers(one))}"
    for tried in one.tried:
        end = ENDS.get(tried.outcome, f"it failed (`{tried.outcome}`)")
        yield f"     {KINDS.get(tried.kind, tried.kind)}: {end}"
    if one.order is not None and not one.tried:
        yield "     its turn did not come"


def say_numbers(one: Candidate) -> Iterator[str]:
    saw = one.saw
    yield f"tier {saw.get('tier')}"
    if "weight" in saw:
        yield f"weight {saw['weight']}"
    if failures := saw.get("failures"):
        yield f"{failures} failures in a row"
    if open_ms := saw.get("open_ms"):
        yield f"closed to requests for another {open_ms} ms"
    if saw.get("trial"):
        yield "one request was trying whether it had recovered"
    if in_flight := saw.get("in_flight"):
        yield f"{in_flight} of this process's requests were there"
    if slots := saw.get("slots"):
        yield f"it makes {slots} answers at once"
    waiting = max(saw.get("queued", 0), saw.get("in_flight", 0) - saw.get("slots", 0))
    if waiting:
        yield f"{waiting} waited"
    if "spill_over" in saw:
        bound = saw["spill_over"]
        yield f"others come first when more than {bound} wait" + (", and they did" if waiting > bound else "")
    if not saw.keys() - {"tier", "weight", "spill_over"}:
        yield "nothing was under way there, and nothing had failed"
