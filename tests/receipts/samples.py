"""Keys and receipts for tests: every claim filled, and every claim empty that may be."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.base import Sealed
from gateway.backends.base import Upstream, Usage
from gateway.places import Place
from gateway.receipts.digest import body_digest
from gateway.receipts.jwk import PublicKey
from gateway.receipts.receipt import (
    AnswerClaim,
    AttemptClaim,
    AuditClaim,
    CacheClaim,
    CacheOrigin,
    GatewayClaim,
    ModelClaim,
    PolicyClaim,
    Receipt,
    RequestClaim,
    UsageClaim,
)
from gateway.receipts.signer import ReceiptSigner, SigningKey


def key(seed: int, *, demo: bool = False) -> SigningKey:
    """A key that is the same in every run."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return SigningKey(private, PublicKey(private.public_key().public_bytes_raw(), demo))


KEY = key(1)
SIGNER = ReceiptSigner(KEY)
PINNED = {KEY.public.thumbprint: KEY.public}

REQUEST = b'{"model":"gpt-oss-20b","messages":[{"role":"user","content":"hello"}]}'
ANSWER = b'{"object":"chat.completion","choices":[]}'

ENGINE = Place(
    id="local-engine",
    kind="engine",
    models={"gpt-oss-20b": "gpt-oss-20b"},
    region=None,
    partition=None,
    country="DE",
    zones=frozenset({"DE", "EU", "EEA"}),
    operator="self",
    regimes=frozenset(),
    attestations=frozenset({"on-premises"}),
    source="declared",
    host=None,
)
BEDROCK = replace(
    ENGINE,
    id="bedrock-frankfurt",
    kind="bedrock",
    models={"gpt-oss-20b": "openai.gpt-oss-20b-1:0"},
    region="eu-central-1",
    partition="aws",
    operator="aws",
    regimes=frozenset({"us-cloud-act"}),
    attestations=frozenset(),
    source="derived",
    host="bedrock-runtime.eu-central-1.amazonaws.com",
)
GATEWAY = replace(ENGINE, id="gateway", kind="gateway", models={})
UPSTREAM = Upstream("bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1", "5d0e3f1c", emulated=False)

FULL = Receipt(
    id="rcpt_" + "0" * 32,
    issued_at="2026-11-23T15:19:03.123456Z",
    outcome="answered",
    status=200,
    request=RequestClaim("req_" + "0" * 32, body_digest(REQUEST), len(REQUEST)),
    answer=AnswerClaim("body", body_digest(ANSWER), len(ANSWER)),
    tenant="acme-de",
    labels=("confidential", "personal"),
    policy=PolicyClaim("sha256:" + "b" * 64, 7, ("infer-anywhere", "personal-stays")),
    gateway=GatewayClaim.of(GATEWAY),
    attempts=(
        AttemptClaim.of(ENGINE, "saturated", None, "first"),
        AttemptClaim.of(BEDROCK, "answered", UPSTREAM, "spill"),
    ),
    cache=CacheClaim("miss", "store-redis"),
    model=ModelClaim("gpt-oss-20b", "gpt-oss-20b"),
    usage=UsageClaim.of(Usage(11, 22, 3, 4)),
    audit=AuditClaim.of("0123456789abcdef", Sealed(41, "c" * 64), Sealed(43, "d" * 64)),
    nonce="client-mark-of-24-letters",
)
CACHED = replace(
    FULL,
    outcome="cached",
    attempts=(),
    cache=CacheClaim(
        "hit",
        "store-redis",
        CacheOrigin(
            "rcpt_" + "9" * 32, "2026-11-22T10:00:00.000000Z", "bedrock-frankfurt", "DE", "aws",
            ("confidential", "personal"), emulated=True,
        ),
    ),
)  # fmt: skip
REFUSED = replace(
    FULL,
    outcome="refused",
    status=401,
    request=RequestClaim("req_" + "0" * 32, None, 0),
    tenant=None,
    labels=(),
    policy=PolicyClaim("sha256:" + "b" * 64, 7, ()),
    attempts=(),
    cache=CacheClaim("off"),
    model=ModelClaim(None, None),
    usage=None,
    audit=None,
    nonce=None,
)
