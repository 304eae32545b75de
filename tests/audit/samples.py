"""One record of each kind with every field filled, for tests that look at what records may hold."""

from __future__ import annotations

from gateway.audit.records import (
    Begin,
    Canary,
    CheckpointMade,
    Considered,
    End,
    PolicyLoaded,
    PolicyRefused,
    Record,
    Recovered,
    Refused,
    SegmentsDropped,
    SigningKeyChanged,
    Started,
    Stopped,
    TenantKeyDropped,
    TenantShredded,
    Tried,
)
from gateway.backends.base import Upstream, Usage
from gateway.facts import Facts
from gateway.labels import Labels
from gateway.policy.summary import Summary

FACTS = Facts("acme-de", "DE", "support", "gpt-oss-20b", Labels("confidential", frozenset({"personal"})))
UPSTREAM = Upstream("bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1", "5d0e3f1c", emulated=False)

CONSIDERED = Considered(
    allowed=("infer-anywhere infer local-engine bedrock-frankfurt", "infer-anywhere record audit-files"),
    denied=("personal-stays infer bedrock-virginia",),
    route="everyone",
    skipped=("bedrock-frankfurt unsupported logprobs",),
    saw=("local-engine tier=1 spill_over=4 in_flight=3 slots=2", "bedrock-frankfurt tier=2"),
)
BEGIN = Begin(
    request="req_1",
    key="key-1",
    facts=FACTS,
    revision="sha256:" + "b" * 64,
    serial=7,
    rules=("infer-anywhere", "personal-stays"),
    permitted="9f86d081",
    plan=("local-engine", "bedrock-frankfurt"),
    stream=True,
    request_hmac="c" * 64,
    end_user_hmac="d" * 64,
    considered=CONSIDERED,
)
END = End(
    request="req_1",
    began=1,
    tenant="acme-de",
    outcome="answered",
    status=200,
    attempts=(
        Tried("local-engine", "saturated", "first"),
        Tried("bedrock-frankfurt", "answered", "spill", UPSTREAM),
    ),
    cache="miss",
    receipt="rcpt_1",
    code=None,
    usage=Usage(11, 22, 3, 4),
    cost_usd_nano=12_345,
    answer_hmac="d" * 64,
)
REFUSED = Refused(
    request="req_2",
    status=403,
    code="residency_denied",
    key="key-1",
    tenant="acme-de",
    facts=FACTS,
    revision="sha256:" + "b" * 64,
    serial=7,
    rules=("secret-stays",),
    receipt="rcpt_2",
    request_hmac="e" * 64,
    considered=CONSIDERED,
)
SUMMARY = Summary(1, 0, 2, ("newly allowed: `infer` at `bedrock-london`; EEA; any purpose; any model",))
LOADED = PolicyLoaded(
    "sha256:" + "b" * 64, 7, "sha256:" + "a" * 64, 12, 9, 4, signed_by=("kid",), summary=SUMMARY.fields()
)
NOT_LOADED = PolicyRefused(
    "sha256:" + "b" * 64, 2, ("places.yaml:3", "routes.yaml:9"), "signature",
    revision="sha256:" + "c" * 64, serial=8, summary=SUMMARY.fields(),
)  # fmt: skip
STARTED = Started("0.1.0", "gateway", "sha256:" + "b" * 64, 7, "written", "kid", demo=False)
KEY_CHANGED = SigningKeyChanged("kid-of-the-old-one", "kid-of-the-new-one")
STOPPED = Stopped("SIGTERM", 0)
RECOVERED = Recovered(17, "f" * 64, "0123456789abcdef.torn-ffff")
CHECKPOINT = CheckpointMade("eyJ.eyJ.c2ln")
SHREDDED = TenantShredded("acme-de", "0123456789abcdef", "2026-11-23T15:19:03.123456Z")
KEY_DROPPED = TenantKeyDropped("acme-de", "0123456789abcdef")
CANARY = Canary("began", "sha256:" + "c" * 64, 8, "sha256:" + "b" * 64, 0, 0)
DROPPED = SegmentsDropped(1, 4000, "a" * 64, 2, 365)

ALL: tuple[Record, ...] = (
    BEGIN, END, REFUSED, LOADED, NOT_LOADED, STARTED, KEY_CHANGED, STOPPED, RECOVERED, CHECKPOINT, DROPPED,
    CANARY, SHREDDED, KEY_DROPPED,
)  # fmt: skip
