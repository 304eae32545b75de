"""An audit as a gateway writes it: one request of each sort, by real parts with backends that do as told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.audit.chain import Link, unseal
from gateway.backends.base import Saturated
from gateway.context import GatewayContext
from tests.gateway.inprocess import Client, chat, gateway, script
from tests.integration.bundle import DEMO, GLOBEX, HELPDESK, bundle_with_keys, without_examples

LOCAL, FRANKFURT, VIRGINIA = "local-engine", "bedrock-frankfurt", "bedrock-virginia"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where it all is. `ids` are request ids by what the request was, `receipts` the headers of its
    answer.
    """

    policies: Path
    state: Path
    ids: dict[str, str]
    receipts: dict[str, str]

    @property
    def audit(self) -> Path:
        return self.state / "audit"

    @property
    def chain(self) -> Path:
        (chain,) = self.audit.glob("*.jsonl")
        return chain

    @property
    def links(self) -> list[Link]:
        return [unseal(line) for line in self.chain.read_bytes().splitlines()]

    def record(self, what: str, kind: str) -> Link:
        (found,) = [
            link for link in self.links if link.kind == kind and link.fields["request"] == self.ids[what]
        ]
        return found


def make_traffic(directory: Path) -> Traffic:
    policies = bundle_with_keys(directory / "policies")
    without_examples(policies)
    traffic = Traffic(policies, directory / "state", {}, {})
    asyncio.run(drive(traffic))
    return traffic


async def drive(traffic: Traffic) -> None:
    async with gateway(traffic.state, traffic.policies) as context:
        script(context, LOCAL, FRANKFURT, VIRGINIA)

        async def ask(what: str, client: Client) -> None:
            await client.ask(context)
            traffic.ids[what] = client.header("x-request-id") or ""
            traffic.receipts[what] = client.header("x-douane-receipt") or ""

        await ask("answered", chat("hello", labels="internal"))
        await ask("cached", chat("hello", labels="internal"))
        busy(context, 7)
        await ask("spilled", chat("again", labels="public"))
        await ask("personal", chat("about somebody", key=HELPDESK))
        await ask("american", chat("hi", key=GLOBEX, labels="public"))
        broken(context)
        await ask("broken", chat("once more", labels="internal"))
        await ask("malformed", chat("hello", temperature="warm"))
        await ask("secret", chat("hush", key=DEMO, labels="secret"))
        context.backends._backends.pop(LOCAL)  # nobody is left for what must stay on the premises
        await ask("denied", chat("hush again", key=DEMO, labels="secret"))


def busy(context: GatewayContext, queued: int) -> None:
    """The local engine says that so many requests wait there."""
    context.health.reported(LOCAL, 2, queued)


def broken(context: GatewayContext) -> None:
    """The local engine has failed three times, Frankfurt says that it is full."""
    busy(context, 0)
    for _ in range(3):
        context.health.failed(LOCAL, context.clock.monotonic_s())

    async def full() -> Any:
        raise Saturated(FRANKFURT)

    script(context, FRANKFURT).before = full
