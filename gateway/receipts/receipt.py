"""What a receipt says. Every claim is explained, one by one, in `docs/receipts.md`.

A receipt attests what the gateway did: which rules decided, where it sent the request, what it delivered. It
does not attest what an operator on the other side did with it. Its times are the gateway host's.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from pydantic import ConfigDict

from gateway.routing.kind import Kind

if TYPE_CHECKING:
    from gateway.audit.base import Sealed
    from gateway.backends.base import Upstream, Usage
    from gateway.places import Place

VERSION: Final = 1
Outcome = Literal["answered", "cached", "refused", "failed", "incomplete"]
Form = Literal["body", "stream"]

# The claims are plain frozen dataclasses, without slots: orjson writes those five times faster.
# Read back, an unknown, missing or mistyped claim is an error that names it.
STRICT: Final = ConfigDict(extra="forbid", strict=True)


def new_receipt_id() -> str:
    """`rcpt_` and 128 random bits in hex: not to be guessed, and says nothing."""
    return f"rcpt_{secrets.token_hex(16)}"


@dataclass(frozen=True)
class RequestClaim:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    sha256: str | None  # None: refused before the body had been read
    bytes: int


@dataclass(frozen=True)
class AnswerClaim:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    form: Form
    sha256: str
    bytes: int


@dataclass(frozen=True)
class PolicyClaim:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    revision: str
    serial: int
    rules: tuple[str, ...]


@dataclass(frozen=True)
class GatewayClaim:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    place: str
    country: str
    operator: str

    @classmethod
    def of(cls, place: Place) -> GatewayClaim:
        return cls(place.id, place.country, place.operator)


@dataclass(frozen=True)
class AttemptClaim:
    """One try at one place, of the place's `kind`. `reason` says why it was made; receipts of earlier
    versions do not. `outcome` is `answered`, `cancelled`, `withdrawn`, or the kind of a `BackendFault`.
    `redacted` counts, by kind, the spans that this place was sent placeholders for.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    place: str
    kind: str
    country: str
    zones: tuple[str, ...]
    operator: str
    place_source: Literal["derived", "declared"]
    host: str | None
    region: str | None
    upstream_request_id: str | None
    emulated: bool
    outcome: str
    reason: Kind | None = None
    redacted: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, place: Place, outcome: str, upstream: Upstream | None, reason: Kind) -> AttemptClaim:
        """`upstream` None: the place was never reached, so its own host and region stand."""
        return cls(
            place=place.id,
            kind=place.kind,
            country=place.country,
            zones=tuple(sorted(place.zones)),
            operator=place.operator,
            place_source=place.source,
            host=upstream.host if upstream else place.host,
            region=upstream.region if upstream else place.region,
            upstream_request_id=upstream.request_id if upstream else None,
            emulated=upstream.emulated if upstream else False,
            outcome=outcome,
            reason=reason,
            redacted=dict(upstream.redacted) if upstream else {},
        )


@dataclass(frozen=True)
class CacheOrigin:
    """Where a cached answer came from: the receipt of its first delivery, and who inferred it when."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    receipt: str | None
    issued_at: str
    place: str
    country: str
    operator: str
    labels: tuple[str, ...]
    emulated: bool


@dataclass(frozen=True)
class CacheClaim:
    """`status` is the cache's word (`hit`, `miss`, `off`, …); `place` the sink that was asked."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    status: str
    place: str | None = None
    origin: CacheOrigin | None = None


@dataclass(frozen=True)
class ModelClaim:
    """Names of the bundle's: `requested` after its aliases are resolved, None when it has no such model."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    requested: str | None
    answered: str | None


@dataclass(frozen=True)
class UsageClaim:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> UsageClaim:
        return cls(usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens, usage.cached_tokens)


@dataclass(frozen=True)
class AuditEnd:
    """The record in which the request ended: the hash covers every record of the chain up to it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sequence: int
    hash: str


@dataclass(frozen=True)
class AuditClaim:
    """The record in which the request began (or was refused): its chain, number and hash.

    `end` is None where that one record is all there is (a refusal), and in receipts of earlier versions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    replica: str
    sequence: int
    hash: str
    end: AuditEnd | None = None

    @classmethod
    def of(cls, replica: str, first: Sealed, last: Sealed | None = None) -> AuditClaim:
        end = AuditEnd(last.sequence, last.hash) if last is not None and last != first else None
        return cls(replica, first.sequence, first.hash, end)


@dataclass(frozen=True)
class Receipt:
    """One request's receipt. `issued_at` is UTC with microseconds, as `gateway.audit.chain.time_text` gives.

    The signer adds `v`, `emulated` and `demo`, so that nobody can forget them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    issued_at: str
    outcome: Outcome
    status: int
    request: RequestClaim
    answer: AnswerClaim
    tenant: str | None
    labels: tuple[str, ...]
    policy: PolicyClaim
    gateway: GatewayClaim
    attempts: tuple[AttemptClaim, ...]
    cache: CacheClaim
    model: ModelClaim
    usage: UsageClaim | None
    audit: AuditClaim | None
    nonce: str | None = None

    @property
    def emulated(self) -> bool:
        """Whether an emulator stood in for a real backend, now or when a cached answer was made."""
        origin = self.cache.origin
        return any(attempt.emulated for attempt in self.attempts) or (origin is not None and origin.emulated)
