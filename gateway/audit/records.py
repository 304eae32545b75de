"""What the audit records say: metadata only.

Every field is an identifier of our own, a word of the bundle's, a number, or a digest. A caller's prompt,
header value, tool argument, model spelling or error text has no field to go in. `fields()` gives JSON values
for `AuditSink.append`; numbers are whole, money is in 10⁻⁹ USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from gateway.backends.base import Upstream, Usage
    from gateway.facts import Facts

CanaryAction = Literal["began", "ended", "promoted"]


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt: `outcome` is `answered`, `cancelled` (the client left), `outrun` (another was first),
    `withdrawn` (no longer permitted), `withheld` (by the place's content filter) or a `BackendFault`'s kind.

    `kind` says why it was made, in a word of `gateway.routing.kind`.
    """

    place: str
    outcome: str
    kind: str
    upstream: Upstream | None = None

    def fields(self) -> dict[str, Any]:
        if self.upstream is None:
            return {"place": self.place, "kind": self.kind, "outcome": self.outcome}
        return {
            "place": self.place,
            "kind": self.kind,
            "outcome": self.outcome,
            "host": self.upstream.host,
            "region": self.upstream.region,
            "upstream_request_id": self.upstream.request_id,
            "emulated": self.upstream.emulated,
            "redacted": dict(self.upstream.redacted),
        }


@dataclass(frozen=True, slots=True)
class Considered:
    """Why a request may go where it may, and what the plan made of that.

    Each row is words with a blank between: there are many, and a row costs a third of an object. `allowed`
    and `denied`: a rule, an action (`read` is `infer` at a gateway), and the places where that rule decides
    about that action. `skipped`: a place, a reason, and what it cannot honour. `saw`: a place that the plan
    looked at, and `name=number` for whatever was not as usual; the names are those of `docs/audit-tools.md`.
    """

    allowed: tuple[str, ...]
    denied: tuple[str, ...]
    route: str | None = None
    skipped: tuple[str, ...] = ()
    saw: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        return {
            "allowed": self.allowed,
            "denied": self.denied,
            "route": self.route,
            "skipped": self.skipped,
            "saw": self.saw,
        }


@dataclass(frozen=True, slots=True)
class Begin:
    """A request is about to leave, or a cached answer to be served: nothing has been processed yet.

    `rules` are the ids of the rules that decided, `permitted` the digest of the permitted places, `plan` the
    places in the order in which they are to be tried. The digests are the caller's to compute (hex):
    `detected` are the kinds of things that detectors found, without where or how often.
    `end_user_hmac` tells the requests of one end user (`safety_identifier`, `user`) apart and names nobody.
    """

    kind: ClassVar[str] = "begin"
    request: str
    key: str
    facts: Facts
    revision: str
    serial: int
    rules: tuple[str, ...]
    permitted: str
    plan: tuple[str, ...]
    stream: bool
    request_hmac: str | None = None
    end_user_hmac: str | None = None
    detected: tuple[str, ...] = ()
    considered: Considered | None = None

    def fields(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "key": self.key,
            **_facts(self.facts),
            "detected": self.detected,
            "revision": self.revision,
            "serial": self.serial,
            "rules": self.rules,
            "permitted": self.permitted,
            "plan": self.plan,
            "stream": self.stream,
            "request_hmac": self.request_hmac,
            "end_user_hmac": self.end_user_hmac,
            "considered": self.considered.fields() if self.considered is not None else None,
        }


@dataclass(frozen=True, slots=True)
class End:
    """What became of the request whose `begin` has sequence `began`, in the same chain; 0 where that could
    not be written, and the operator chose to go on.

    `outcome` is a word of `gateway.receipts.receipt.OUTCOMES`. `code` is an error's code. `cache` is the
    cache's answer (`hit`, `miss`, …). `cost_usd_nano` is in 10⁻⁹ USD.
    """

    kind: ClassVar[str] = "end"
    request: str
    began: int
    tenant: str
    outcome: str
    status: int
    attempts: tuple[Tried, ...]
    cache: str
    receipt: str | None
    code: str | None = None
    usage: Usage | None = None
    cost_usd_nano: int = 0
    answer_hmac: str | None = None

    def fields(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "began": self.began,
            "tenant": self.tenant,
            "outcome": self.outcome,
            "status": self.status,
            "attempts": [tried.fields() for tried in self.attempts],
            "cache": self.cache,
            "receipt": self.receipt,
            "code": self.code,
            "usage": _usage(self.usage),
            "cost_usd_nano": self.cost_usd_nano,
            "answer_hmac": self.answer_hmac,
        }


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was turned away before it began; what was not known yet is None."""

    kind: ClassVar[str] = "refused"
    request: str
    status: int
    code: str
    key: str | None = None
    tenant: str | None = None
    facts: Facts | None = None
    revision: str | None = None
    serial: int | None = None
    rules: tuple[str, ...] = ()
    receipt: str | None = None
    request_hmac: str | None = None
    detected: tuple[str, ...] = ()
    considered: Considered | None = None

    def fields(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "status": self.status,
            "code": self.code,
            "key": self.key,
            "tenant": self.tenant,
            **(_facts(self.facts) if self.facts is not None else {}),
            "detected": self.detected,
            "revision": self.revision,
            "serial": self.serial,
            "rules": self.rules,
            "receipt": self.receipt,
            "request_hmac": self.request_hmac,
            "considered": self.considered.fields() if self.considered is not None else None,
        }


@dataclass(frozen=True, slots=True)
class PolicyLoaded:
    """A bundle took effect; `previous` is the revision it replaced, None at a start.

    `signed_by` are the trusted keys that vouch for it. `summary` is what it changed, in the words of the
    bundles (`gateway.policy.summary`); None at a start.
    """

    kind: ClassVar[str] = "policy_loaded"
    revision: str
    serial: int
    previous: str | None
    rules_count: int
    places_count: int
    tenants_count: int
    signed_by: tuple[str, ...] = ()
    summary: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "serial": self.serial,
            "previous": self.previous,
            "rules_count": self.rules_count,
            "places_count": self.places_count,
            "tenants_count": self.tenants_count,
            "signed_by": self.signed_by,
            "summary": self.summary,
        }


@dataclass(frozen=True, slots=True)
class PolicyRefused:
    """A bundle that was not loaded; `kept` is the revision that stays, None at a start, which then failed.

    `problems` are `file:line` of each; `reason` is a word of `gateway.policy.problems.reason_of`. `revision`
    and `serial` are what was offered, where that could be read, and `summary` what it would have changed,
    where it could be compiled.
    """

    kind: ClassVar[str] = "policy_refused"
    kept: str | None
    problems_count: int
    problems: tuple[str, ...]
    reason: str
    revision: str | None = None
    serial: int | None = None
    summary: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        return {
            "kept": self.kept,
            "problems_count": self.problems_count,
            "problems": self.problems,
            "reason": self.reason,
            "revision": self.revision,
            "serial": self.serial,
            "summary": self.summary,
        }


@dataclass(frozen=True, slots=True)
class Started:
    """A process begins to serve. `place` is the gateway's own, `signing_key` the `kid` of its receipts."""

    kind: ClassVar[str] = "started"
    version: str
    place: str
    revision: str
    serial: int
    durability: str
    signing_key: str
    demo: bool

    def fields(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "place": self.place,
            "revision": self.revision,
            "serial": self.serial,
            "durability": self.durability,
            "signing_key": self.signing_key,
            "demo": self.demo,
        }


@dataclass(frozen=True, slots=True)
class SigningKeyChanged:
    """Receipts are signed with another key from here on; `before` and `after` are the `kid` of each."""

    kind: ClassVar[str] = "signing_key_changed"
    before: str
    after: str

    def fields(self) -> dict[str, Any]:
        return {"before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class Stopped:
    """A process ends on purpose; `unfinished_count` requests were cut off by it."""

    kind: ClassVar[str] = "stopped"
    reason: str
    unfinished_count: int

    def fields(self) -> dict[str, Any]:
        return {"reason": self.reason, "unfinished_count": self.unfinished_count}


@dataclass(frozen=True, slots=True)
class Recovered:
    """A crash had cut the last line; its bytes are in the file `kept_as`, beside the chain."""

    kind: ClassVar[str] = "recovered"
    torn_bytes: int
    torn_sha256: str
    kept_as: str

    def fields(self) -> dict[str, Any]:
        return {"torn_bytes": self.torn_bytes, "torn_sha256": self.torn_sha256, "kept_as": self.kept_as}


@dataclass(frozen=True, slots=True)
class CheckpointMade:
    """Says, signed, which record stands right before this one; `jws` is a `gateway.audit.checkpoint`."""

    kind: ClassVar[str] = "checkpoint"
    jws: str

    def fields(self) -> dict[str, Any]:
        return {"jws": self.jws}


@dataclass(frozen=True, slots=True)
class SegmentsDropped:
    """Closed files are removed because all of their records are older than `keep_days`.

    They held the records up to `last`, whose hash is `last_hash`; what follows verifies from there.
    """

    kind: ClassVar[str] = "segments_dropped"
    first: int
    last: int
    last_hash: str
    files_count: int
    keep_days: int

    def fields(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "last": self.last,
            "last_hash": self.last_hash,
            "files_count": self.files_count,
            "keep_days": self.keep_days,
        }


@dataclass(frozen=True, slots=True)
class Canary:
    """A candidate bundle `began` to be judged beside the live one, `ended` (removed, replaced or broken), or
    was `promoted`: it is the live one now. `revision` and `serial` are the candidate's."""

    kind: ClassVar[str] = "canary"
    action: CanaryAction
    revision: str
    serial: int
    live: str
    judged_count: int
    disagreements_count: int

    def fields(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "revision": self.revision,
            "serial": self.serial,
            "live": self.live,
            "judged_count": self.judged_count,
            "disagreements_count": self.disagreements_count,
        }


@dataclass(frozen=True, slots=True)
class TenantShredded:
    """A tenant's data key was destroyed; `key_id` names the key, None where it never had one."""

    kind: ClassVar[str] = "tenant_shredded"
    tenant: str
    key_id: str | None
    shredded_at: str

    def fields(self) -> dict[str, Any]:
        return {"tenant": self.tenant, "key_id": self.key_id, "shredded_at": self.shredded_at}


@dataclass(frozen=True, slots=True)
class TenantKeyDropped:
    """This process held the key of a tenant, and holds it no longer: it was destroyed, or another took its
    place."""

    kind: ClassVar[str] = "tenant_key_dropped"
    tenant: str
    key_id: str

    def fields(self) -> dict[str, Any]:
        return {"tenant": self.tenant, "key_id": self.key_id}


Record = (
    Begin
    | End
    | Refused
    | PolicyLoaded
    | PolicyRefused
    | Started
    | SigningKeyChanged
    | Stopped
    | Recovered
    | CheckpointMade
    | SegmentsDropped
    | Canary
    | TenantShredded
    | TenantKeyDropped
)


def _facts(facts: Facts) -> Mapping[str, Any]:
    return {
        "tenant": facts.tenant,
        "zone": facts.zone,
        "purpose": facts.purpose,
        "model": facts.model,
        "labels": facts.labels.names(),
    }


def _usage(usage: Usage | None) -> dict[str, int] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cached_tokens": usage.cached_tokens,
    }
