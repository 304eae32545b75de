"""A receipt in words: what each claim says, for somebody who has not read the documentation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.receipts.receipt import AttemptClaim, CacheClaim, Receipt
from gateway.receipts.verify import OpenedReceipt
from gateway.routing.kind import Kind

_OUTCOMES: Final = {
    "answered": "a backend inferred the answer, and it was delivered whole",
    "cached": "the answer was taken from the cache; no backend was asked",
    "refused": "the request was turned away, and nothing left the gateway",
    "failed": "no backend gave an answer; an error was delivered",
    "incomplete": "the answer ended before it was whole",
}
_REASONS: Final[Mapping[Kind, str]] = {
    "first": "the place that the route tries first",
    "retry": "the same place again, after a fault that may pass",
    "fallback": "the next permitted place, after the one before had failed",
    "spill": "another permitted place, because one that the route prefers had too much to do",
    "hedge": "another permitted place, asked beside one that had not answered yet",
    "context_window": "another permitted place, because the request did not fit the context of one before",
    "content_filter": "another permitted place, because one before had withheld its answer",
}
_OUTCOMES_OF_TRY: Final = {
    "answered": "this place answered",
    "cancelled": "the client left, and the call was cancelled",
    "outrun": "another place was first, and this call was cancelled; its operator may bill it all the same",
    "withheld": "this place's content filter withheld its answer, which was not delivered",
    "withdrawn": "the policy in force by then permitted it no longer, and nothing was sent",
}
_SOURCES: Final = {
    "derived": "follows from the host that the request was signed for",
    "declared": "as the operator declares it",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """One row: the claim's path, its value as text, and what it says."""

    claim: str
    value: str
    meaning: str


def explain(opened: OpenedReceipt) -> tuple[Explained, ...]:
    """Every claim of the receipt, in the order in which they are to be read."""
    receipt = opened.receipt
    rows: list[tuple[str, object, str]] = [
        ("id", receipt.id, "the receipt's own name"),
        ("issued_at", receipt.issued_at, "when it was signed, by the clock of the gateway's host"),
        ("kid", opened.kid, "the key that it names as its signer's (RFC 7638 thumbprint)"),
        ("demo", opened.demo, _demo(opened.demo)),
        ("outcome", receipt.outcome, _OUTCOMES[receipt.outcome]),
        ("status", receipt.status, "the HTTP status that was sent"),
        ("request.id", receipt.request.id, "the request's name in logs and audit"),
        ("request.sha256", receipt.request.sha256, _request(receipt)),
        ("answer.form", receipt.answer.form, _form(receipt)),
        (
            "answer.sha256",
            receipt.answer.sha256,
            f"SHA-256 of what was delivered, {_bytes(receipt.answer.bytes)}",
        ),
        ("tenant", receipt.tenant, "who asked" if receipt.tenant is not None else "the caller was not known"),
        ("labels", ", ".join(receipt.labels), "what the request was judged to carry"),
        ("policy.revision", receipt.policy.revision, "the content hash of the policy bundle that decided"),
        ("policy.serial", receipt.policy.serial, "the bundle's number; it only grows"),
        ("policy.rules", ", ".join(receipt.policy.rules), "the rules that decided"),
        (
            "gateway",
            receipt.gateway.place,
            f"stands in {receipt.gateway.country}, {_by(receipt.gateway.operator)}",
        ),
    ]
    for number, attempt in enumerate(receipt.attempts, start=1):
        rows += _attempt(number, attempt)
    if not receipt.attempts:
        rows.append(("attempts", "none", "the request was sent to no backend"))
    rows += _cache(receipt.cache)
    rows += [
        ("model.requested", receipt.model.requested, "the model that was asked for, aliases resolved"),
        ("model.answered", receipt.model.answered, "the model that answered, by the backend's word"),
        ("usage", _usage(receipt), "tokens of the prompt and of the answer, by the backend's count"),
        ("audit", _audit(receipt), "the audit record in which the request began: chain, number, hash"),
        ("audit.end", _end(receipt), _anchor(receipt)),
        ("nonce", receipt.nonce, _nonce(receipt)),
        ("emulated", receipt.emulated, _emulated(receipt.emulated)),
    ]
    return tuple(Explained(claim, _text(value), meaning) for claim, value, meaning in rows)


def _attempt(number: int, attempt: AttemptClaim) -> list[tuple[str, object, str]]:
    name = f"attempts[{number}]"
    zones = ", ".join(attempt.zones)
    where = f"in {attempt.country} ({zones}), {_by(attempt.operator)}; {_SOURCES[attempt.place_source]}"
    rows: list[tuple[str, object, str]] = [
        (
            name,
            f"{attempt.place}: {attempt.outcome}",
            _OUTCOMES_OF_TRY.get(attempt.outcome, "this place failed"),
        ),
        (f"{name}.place", attempt.place, f"a place of kind {attempt.kind} {where}"),
        (f"{name}.host", attempt.host, "the host that was connected to" + _signed_region(attempt)),
    ]
    if attempt.reason is not None:
        rows.insert(1, (f"{name}.reason", attempt.reason, f"why: {_REASONS[attempt.reason]}"))
    if attempt.upstream_request_id is not None:
        text = "the operator's own name for the call, to match with its logs (at AWS: CloudTrail)"
        rows.append((f"{name}.upstream_request_id", attempt.upstream_request_id, text))
    if attempt.emulated:
        rows.append((f"{name}.emulated", True, "an emulator stood in for this place"))
    if attempt.redacted:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(attempt.redacted.items()))
        rows.append((f"{name}.redacted", counts, "spans that this place was sent placeholders for, by kind"))
    return rows


def _cache(cache: CacheClaim) -> list[tuple[str, object, str]]:
    rows: list[tuple[str, object, str]] = [("cache.status", cache.status, "what the cache had to say")]
    if cache.place is not None:
        rows.append(("cache.place", cache.place, "the store that was asked"))
    if (origin := cache.origin) is not None:
        text = f"made {origin.issued_at} at {origin.place} in {origin.country}, {_by(origin.operator)}"
        rows += [
            ("cache.origin.receipt", origin.receipt, f"the receipt of the answer's first delivery; {text}"),
            ("cache.origin.labels", ", ".join(origin.labels), "what the first request carried"),
        ]
    return rows


def _demo(demo: bool) -> str:
    return "signed with a demo key: it proves nothing to anybody" if demo else "not signed with a demo key"


def _emulated(emulated: bool) -> str:
    return "an emulator stood in for a real backend" if emulated else "no emulator took part"


def _request(receipt: Receipt) -> str:
    if receipt.request.sha256 is None:
        return "the request was refused before its body had been read"
    return f"SHA-256 of the body as it arrived, {_bytes(receipt.request.bytes)}"


def _form(receipt: Receipt) -> str:
    if receipt.answer.form == "stream":
        return "a stream: the digest is over the events' data up to the receipt"
    return "one body: the digest is over its bytes"


def _usage(receipt: Receipt) -> str | None:
    usage = receipt.usage
    if usage is None:
        return None
    detail = f"{usage.reasoning_tokens} reasoning, {usage.cached_tokens} prompt tokens reused"
    return f"{usage.prompt_tokens} + {usage.completion_tokens} ({detail})"


def _audit(receipt: Receipt) -> str | None:
    audit = receipt.audit
    return f"{audit.replica} / {audit.sequence} / {audit.hash}" if audit is not None else None


def _end(receipt: Receipt) -> str | None:
    end = receipt.audit.end if receipt.audit is not None else None
    return f"{end.sequence} / {end.hash}" if end is not None else None


def _anchor(receipt: Receipt) -> str:
    if receipt.audit is None:
        return "the audit holds no record of the request"
    if receipt.audit.end is None:
        return "no record of its end beside that one"
    return "the record in which it ended: its hash vouches for all records of the chain before it"


def _nonce(receipt: Receipt) -> str:
    if receipt.nonce is None:
        return "the client sent no mark of its own"
    return "the client's own mark: the receipt was made after it had been sent"


def _signed_region(attempt: AttemptClaim) -> str:
    return f" and signed for, in region {attempt.region}" if attempt.region is not None else ""


def _by(operator: str) -> str:
    return "run by the gateway's own operator" if operator == "self" else f"run by {operator}"


def _bytes(count: int) -> str:
    return f"{count} byte" if count == 1 else f"{count} bytes"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
