"""Whatever becomes of a request, its receipt says all of it: each claim of each kind against the exchange."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.base import Sealed
from gateway.audit.chain import Link
from gateway.backends.base import Misconfigured, ServerFault, Upstream, Usage
from gateway.clock import SystemClock
from gateway.context import GatewayContext
from gateway.facts import Limits
from gateway.receipts.delivery import find_receipt
from gateway.receipts.lookup import fetch_receipt
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
from gateway.receipts.verify import answer_matches, verify_receipt
from gateway.routing.health import Health
from tests.gateway.inprocess import Client, chat, end, gateway, records, script, word
from tests.integration.bundle import DEMO, bundle_with_keys

FRANKFURT = Upstream("bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1", "5d0e3f1c", True)
LONG_AGO = datetime(2001, 9, 9, 1, 46, 40, 123456, tzinfo=UTC)
USAGE = Usage(11, 22, 3, 4)
MODEL = "gpt-oss-20b"
PERSONAL = ("internal", "personal")


class WrongClock(SystemClock):
    """The clock of a host that is decades behind; durations are as everywhere."""

    def now(self) -> datetime:
        return LONG_AGO


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, what came back, and what the audit holds of it."""

    client: Client
    nonce: str
    context: GatewayContext
    links: tuple[Link, ...]
    jws: str | None

    @property
    def request_id(self) -> str:
        return str(self.links[-1].fields["request"])

    @property
    def streamed(self) -> bool:
        return (self.client.header("content-type") or "").startswith("text/event-stream")

    def receipt(self) -> Receipt:
        """As a stranger who pinned the public key reads it."""
        assert self.jws is not None
        public = self.context.signer.public
        return verify_receipt(self.jws, {public.thumbprint: public}).receipt


def ask(nonce: str, text: str, labels: str | None = "internal, personal", **fields: Any) -> Client:
    client = chat(text, labels=labels, **fields)
    return replace(client, headers=(*client.headers, (b"x-douane-nonce", nonce.encode())))


def bedrock(context: GatewayContext, **told: Any) -> None:
    """Frankfurt answers; the engine, which stands first, has failed before."""

    async def broken() -> None:
        raise ServerFault("`local-engine` failed")

    context.backends._backends.clear()
    script(context, "local-engine", before=broken)
    script(context, "bedrock-frankfurt", **{"upstream": FRANKFURT, "usage": USAGE, **told})


STEPS = ((word("one "),), (word("two", "stop"), end(USAGE)))
NAMES = (
    "plain", "stream", "hit", "hit-stream", "residency", "label", "model", "rate", "unavailable",
    "misconfigured", "hang-up", "broken-stream",
)  # fmt: skip


async def exchange(name: str, context: GatewayContext) -> Exchange:
    nonce = f"nonce-of-{name}-0123456789"
    seen = len(records(context))
    context = replace(context, health=Health())  # what failed in the exchange before is forgotten
    bedrock(context, steps=STEPS)
    match name:
        case "plain" | "hit":
            client = ask(nonce, "kept")
        case "stream" | "hit-stream":
            client = ask(nonce, "kept as a stream", stream=True, stream_options={"include_usage": True})
        case "residency":
            context.backends._backends.clear()
            script(context, "bedrock-virginia")
            client = ask(nonce, "not abroad")
        case "label":
            client = ask(nonce, "what is it", labels="no-such-label")
        case "model":
            client = ask(nonce, "which", model="no-such-model")
        case "rate":
            client = ask(nonce, "one too many")
        case "unavailable":
            context.backends._backends.pop("bedrock-frankfurt")
            client = ask(nonce, "nobody is there")
        case "misconfigured":

            async def unknown() -> None:
                raise Misconfigured("`bedrock-frankfurt` denied access", upstream=FRANKFURT)

            bedrock(context, before=unknown)
            client = ask(nonce, "nobody lets us")
        case "hang-up":

            async def leave() -> None:
                client.gone.set()
                await asyncio.Event().wait()

            bedrock(context, steps=((word("one "),), leave))
            client = ask(nonce, "left alone", stream=True)
        case _:
            bedrock(context, steps=((word("one "),), ServerFault("cut", upstream=FRANKFURT)))
            client = ask(nonce, "broken off", stream=True)
    await client.ask(context)
    links = tuple(records(context)[seen:])
    if name == "hang-up":  # nobody was there to take it; it can still be fetched
        fetched = await fetch_receipt(f"Bearer {DEMO}", str(links[-1].fields["receipt"]), context)
        assert isinstance(fetched.body, bytes)
        jws = json.loads(fetched.body)["jws"]
    else:
        header = client.header("x-douane-receipt")
        jws = find_receipt(client.answer) if header is None else header
    return Exchange(client, nonce, context, links, jws)


def limited(context: GatewayContext, limits: Limits) -> None:
    bundle = context.policies.current
    tenant = bundle.tenants["demo"]
    demo = replace(tenant, caller=replace(tenant.caller, limits=limits))
    context.policies.current = replace(bundle, tenants={**bundle.tenants, "demo": demo})


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exchange]:
    """Every kind, one after the other, at one gateway on a host whose clock is wrong."""

    async def all_of_them() -> dict[str, Exchange]:
        folder = tmp_path_factory.mktemp("whole")
        async with gateway(folder / "state", bundle_with_keys(folder / "policies")) as opened:
            context = replace(opened, clock=WrongClock())
            made = {name: await exchange(name, context) for name in NAMES if name != "rate"}
            limited(context, Limits(requests_per_minute=1))
            await exchange("plain", context)
            made["rate"] = await exchange("rate", context)
            return made

    return asyncio.run(all_of_them())


def expected_attempts(name: str) -> tuple[AttemptClaim, ...]:
    """Written out: what a reader must find of each try."""
    engine = AttemptClaim(
        place="local-engine", kind="engine", country="DE", zones=("DE", "EEA", "EU"), operator="self",
        place_source="declared", host=None, region=None, upstream_request_id=None, emulated=False,
        outcome="server_fault", reason="first",
    )  # fmt: skip
    again = replace(engine, reason="retry")
    frankfurt = AttemptClaim(
        place="bedrock-frankfurt", kind="bedrock", country="DE", zones=("DE", "EEA", "EU"), operator="aws",
        place_source="derived", host="bedrock-runtime.eu-central-1.amazonaws.com", region="eu-central-1",
        upstream_request_id="5d0e3f1c", emulated=True, outcome="answered", reason="fallback",
    )  # fmt: skip
    match name:
        case "plain" | "stream":
            return (engine, again, frankfurt)
        case "unavailable":
            return (engine, again)
        case "misconfigured":
            return (engine, again, replace(frankfurt, outcome="misconfigured"))
        case "hang-up":
            return (engine, again, frankfurt)
        case "broken-stream":
            return (engine, again, frankfurt, replace(frankfurt, outcome="server_fault"))
    return ()


ENDS = {
    "plain": ("answered", 200),
    "stream": ("answered", 200),
    "hit": ("cached", 200),
    "hit-stream": ("cached", 200),
    "residency": ("refused", 403),
    "label": ("refused", 400),
    "model": ("refused", 404),
    "rate": ("refused", 429),
    "unavailable": ("failed", 503),
    "misconfigured": ("failed", 502),
    "hang-up": ("incomplete", 200),
    "broken-stream": ("incomplete", 200),
}
PREMISES, CLOUD = "our-premises-serve-every-tenant", "european-and-us-tenants-may-use-bedrock"
RULES = dict.fromkeys(NAMES, (PREMISES, CLOUD)) | {
    "hit": (CLOUD, PREMISES),
    "hit-stream": (CLOUD, PREMISES),
    "residency": ("personal-data-of-eea-tenants-stays-in-the-eea",),
    "label": (),
    "model": (),
    "rate": (),
    "unavailable": (PREMISES,),
}
REFUSED = {"residency", "label", "model", "rate"}


@pytest.mark.parametrize("name", NAMES)
def test_a_receipt_says_all_that_the_gateway_did(exchanges: dict[str, Exchange], name: str) -> None:
    said, context = exchanges[name], exchanges[name].context
    receipt, bundle = said.receipt(), context.policies.current
    outcome, status = ENDS[name]
    first, last = said.links[0], said.links[-1]
    refused, cached, streamed = name in REFUSED, outcome == "cached", said.streamed
    model = None if name in ("label", "model") else MODEL
    used = outcome in ("answered", "cached")

    assert receipt == Receipt(
        id=f"rcpt_{said.request_id.removeprefix('req_')}",
        issued_at="2001-09-09T01:46:40.123456Z",
        outcome=outcome,  # type: ignore[arg-type]
        status=status,
        request=RequestClaim(
            said.request_id, hashlib.sha256(said.client.body).hexdigest(), len(said.client.body)
        ),
        answer=AnswerClaim("stream" if streamed else "body", receipt.answer.sha256, receipt.answer.bytes),
        tenant="demo",
        labels=() if model is None else PERSONAL,
        policy=PolicyClaim(bundle.revision, bundle.serial, RULES[name]),
        gateway=GatewayClaim("gateway", "DE", "self"),
        attempts=expected_attempts(name),
        cache=CacheClaim(
            "off" if model is None else "hit" if cached else "miss",
            None if model is None else "store-memory",
            receipt.cache.origin if cached else None,
        ),
        model=ModelClaim(model, MODEL if outcome in ("answered", "cached", "incomplete") else None),
        usage=UsageClaim.of(USAGE) if used else None,
        audit=AuditClaim.of(
            context.audit.replica,
            Sealed(first.sequence, first.hash),
            None if refused else Sealed(last.sequence, last.hash),
        ),
        nonce=said.nonce,
    )
    assert [link.kind for link in said.links] == (["refused"] if refused else ["begin", "end"])
    assert last.fields["receipt"] == receipt.id
    assert receipt.audit is not None
    assert (receipt.audit.end is None) == refused
    if name == "hang-up":
        heard = b"".join(
            line.removeprefix(b"data: ") for line in said.client.answer.splitlines() if b"one " in line
        )
        assert (receipt.answer.sha256, receipt.answer.bytes) == (
            hashlib.sha256(heard).hexdigest(), len(heard),
        )  # fmt: skip
    else:
        assert said.client.status == status
        assert answer_matches(receipt, said.client.answer)


@pytest.mark.parametrize(("name", "first"), [("hit", "plain"), ("hit-stream", "stream")])
def test_a_hit_names_the_first_delivery(exchanges: dict[str, Exchange], name: str, first: str) -> None:
    """Each has its own nonce: an answer from the cache does not come with the mark of whoever asked first."""
    origin, made = exchanges[name].receipt().cache.origin, exchanges[first].receipt()

    assert origin == CacheOrigin(
        receipt=made.id, issued_at="2001-09-09T01:46:40.123456Z", place="bedrock-frankfurt", country="DE",
        operator="aws", labels=PERSONAL, emulated=True,
    )  # fmt: skip
    assert exchanges[name].receipt().emulated
    assert exchanges[name].nonce != made.nonce


def test_the_chain_ends_where_the_last_receipt_says(exchanges: dict[str, Exchange]) -> None:
    """With the receipt at hand, records that were cut off the chain's end are missed."""
    ends = {
        receipt.audit.end.sequence: receipt.audit.end.hash
        for receipt in (said.receipt() for said in exchanges.values())
        if receipt.audit is not None and receipt.audit.end is not None
    }
    written = {link.sequence: link.hash for said in exchanges.values() for link in said.links}

    assert len(ends) == len(NAMES) - len(REFUSED)
    assert ends.items() <= written.items()


def test_no_nonce_reaches_the_audit(exchanges: dict[str, Exchange]) -> None:
    audit = exchanges["plain"].context.audit.path.read_text()  # type: ignore[attr-defined]

    assert [said.nonce for said in exchanges.values() if said.nonce in audit] == []


NONCES = {
    b"x" * 15: None,
    b"x" * 16: "x" * 16,
    b"aA0-._~aA0-._~aA0-._~": "aA0-._~aA0-._~aA0-._~",
    b"x" * 128: "x" * 128,
    b"x" * 129: None,
    b"": None,
    b"sixteen letters, no": None,
    b"sixteen+letters/no==": None,
    b"sixteen-letters\xff": None,
    b"sixteen-letters-\n": None,
}


async def test_a_nonce_is_taken_as_it_is_or_refused_by_name(tmp_path: Path) -> None:
    async with gateway(tmp_path / "state", bundle_with_keys(tmp_path / "policies")) as context:
        script(context)
        for given, nonce in NONCES.items():
            client = chat("a mark")
            client = replace(client, headers=(*client.headers, (b"x-douane-nonce", given)))
            await client.ask(context)
            if nonce is None:
                error = json.loads(client.answer)["error"]
                assert (client.status, error["code"]) == (400, "invalid_request")
                assert "`x-douane-nonce`" in error["message"]
                assert "secrets.token_urlsafe(24)" in error["message"]
                assert not given or given.decode("latin-1") not in error["message"]
            else:
                assert client.status == 200
                public = context.signer.public
                jws = str(client.header("x-douane-receipt"))
                assert verify_receipt(jws, {public.thumbprint: public}).receipt.nonce == nonce

        twice = chat("two marks")
        mark = (b"x-douane-nonce", b"sixteen-letters-it-has")
        twice = replace(twice, headers=(*twice.headers, mark, mark))
        await twice.ask(context)
        assert twice.status == 400
        assert "more than once" in json.loads(twice.answer)["error"]["message"]

        stranger = replace(chat("who asks", key="nobody"))
        await stranger.ask(context)
        assert (stranger.status, stranger.header("x-douane-receipt")) == (401, None)
