"""One record of each kind with every field filled, for tests that look at what records may hold."""

from __future__ import annotations

from gateway.audit.records import (
    Begin,
    Considered,
    End,
    PolicyLoaded,
    PolicyRefused,
    Record,
    Recovered,
    Refused,
    Started,
    Stopped,
    Tried,
)
from gateway.backends.base import Upstream, Usage
from gateway.facts import Facts
from gateway.labels import Labels

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
LOADED = PolicyLoaded("sha256:" + "b" * 64, 7, "sha256:" + "a" * 64, 12, 9, 4)
NOT_LOADED = PolicyRefused("sha256:" + "b" * 64, 2, ("places.yaml:3", "routes.yaml:9"))
STARTED = Started("0.1.0", "gateway", "sha256:" + "b" * 64, 7, "written", "kid", demo=False)
STOPPED = Stopped("SIGTERM", 0)
RECOVERED = Recovered(17, "f" * 64, "0123456789abcdef.torn-ffff")

ALL: tuple[Record, ...] = (BEGIN, END, REFUSED, LOADED, NOT_LOADED, STARTED, STOPPED, RECOVERED)
