"""A short tour over real parts: what is answered where, what is refused, and what proves it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson
from rich.console import Console
from rich.panel import Panel
from rich.table import Column, Table

from gateway.demo.stack import DEMO_TENANT, demo_settings, demo_stack
from gateway.engine_process import RunningEngine, end, running_engine
from gateway.opening import RECEIPT_KEY
from gateway.receipts.keys import load_signing_key
from gateway.receipts.verify import answer_matches, request_matches, verify_receipt
from gateway.serving import serve
from gateway.settings import Settings
from gateway.testing.bedrock.faults import Fault
from gateway.testing.bedrock.server import Running

EEA_REGIONS = ("eu-central-1", "eu-west-1", "eu-north-1", "eu-south-1")


class TourFailed(Exception):
    """A step did not show what it is there to show."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer, with its receipt checked offline against the pinned key."""

    status: int
    headers: Mapping[str, str]
    code: str | None
    rules: tuple[str, ...]
    emulated: bool

    @property
    def where(self) -> str:
        backend = self.headers.get("x-douane-backend")
        return f"{backend} ({self.headers['x-douane-zone']})" if backend else "nowhere"


@dataclass(frozen=True, slots=True)
class Tour:
    """What the steps need: the gateway's URL and key, its pinned public key, the engine and the emulators."""

    url: str
    key: str
    settings: Settings
    engine: RunningEngine
    emulators: tuple[Running, ...]
    http: aiohttp.ClientSession
    table: Table

    async def ask(self, step: str, question: str, labels: str | None = None) -> Answered:
        """One request and its row. Raises `TourFailed` when its receipt does not verify."""
        body = (
            b'{"model":"gpt-oss-20b","max_tokens":64,"messages":[{"role":"user","content":"%b"}]}'
            % question.encode()
        )
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        if labels:
            headers["x-douane-labels"] = labels
        async with self.http.post(f"{self.url}/v1/chat/completions", data=body, headers=headers) as response:
            answer = await response.read()
            found = Answered(response.status, response.headers, *self.checked(response.headers, body, answer))
        cache = response.headers["x-douane-cache"]
        notes = [
            found.code,
            "from the cache" if cache == "hit" else None,
            "emulated" if found.emulated else None,
        ]
        self.table.add_row(step, str(found.status), found.where, ", ".join(note for note in notes if note))
        return found

    def checked(
        self, headers: Mapping[str, str], body: bytes, answer: bytes
    ) -> tuple[str | None, tuple[str, ...], bool]:
        public = load_signing_key(self.settings.state_dir / RECEIPT_KEY).public
        opened = verify_receipt(headers["x-douane-receipt"], {public.thumbprint: public})
        if not request_matches(opened.receipt, body) or not answer_matches(opened.receipt, answer):
            raise TourFailed("a receipt's digests do not fit what was sent and received")
        error = orjson.loads(answer).get("error") if opened.receipt.status >= 400 else None
        return error["code"] if error else None, opened.receipt.policy.rules, opened.receipt.emulated

    def received(self) -> dict[str, int]:
        """Requests that each region's emulator has received, by region."""
        return {one.emulator.region: len(one.emulator.ledger.requests) for one in self.emulators}


async def tour(console: Console) -> None:
    """Plays the tour. Raises `TourFailed` when a step shows something else than it should."""
    async with open_tour(console) as play:
        await play_steps(play, console)
        console.print(play.table)
        regions = Table("region", "requests received", title="What each emulated region received in all")
        for region, count in play.received().items():
            regions.add_row(region, str(count))
        console.print(regions)
        console.print(
            "The receipt of every row was verified offline with the pinned key, against the bytes sent and "
            "received. By hand: `douane receipt verify`.\n"
            "The model is a tiny demo, Bedrock is emulated; the decisions, signatures and records are real."
        )


async def play_steps(play: Tour, console: Console) -> None:
    def note(text: str) -> None:
        console.print(Panel.fit(text))

    note("The engine runs. A public question prefers it; the same question is then answered from the cache.")
    first = await play.ask("public", "What is a customs office?")
    again = await play.ask("the same again", "What is a customs office?")
    expect(first.where.startswith("local-engine") and again.headers["x-douane-cache"] == "hit", "a cache hit")

    note("The engine is stopped. Public requests spill over to Bedrock, in the tenant's own region.")
    await end(play.engine.process)
    spilled = await play.ask("public, engine down", "Where is Bedrock?")
    expect(spilled.where.startswith("bedrock-"), "a spill to Bedrock")

    note("Personal data may spill too, but not leave the EEA, not even when every EEA region fails.")
    personal = await play.ask("personal, engine down", "Whose data is this?", "personal")
    expect(personal.status == 200 and play.received()["us-east-1"] == 0, "an answer from the EEA")
    for one in play.emulators:
        if one.emulator.region in EEA_REGIONS:
            one.emulator.faults.add(*[Fault(kind="error", code="ServiceUnavailableException", times=None)])
    stuck = await play.ask("personal, EEA down", "Whose data is this now?", "personal")
    expect(
        stuck.status == 503 and play.received()["us-east-1"] == 0, "a refusal instead of London or Virginia"
    )

    note("Secrets stay on the premises: with the engine down they are refused, whatever else could answer.")
    before = play.received()
    secret = await play.ask("secret, engine down", "What is the formula?", "secret")
    expect(secret.status == 503 and play.received() == before, "a refusal that reached no region")


def expect(shown: bool, what: str) -> None:
    if not shown:
        raise TourFailed(f"the tour expected {what} and saw something else")


@asynccontextmanager
async def open_tour(console: Console) -> AsyncIterator[Tour]:
    settings = demo_settings(os.environ, {"port": 0, "bedrock": "emulator", "policy_poll_s": 60.0})
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with (
        demo_stack(settings) as (prepared, key, emulators),
        running_engine(
            prepared.model or settings.state_dir, free_port(), settings.state_dir / "engine-secret"
        ) as engine,
        aiohttp.ClientSession(trust_env=False) as http,
    ):
        wired = prepared.model_copy(
            update={"engine_url": engine.url, "model": None, "engine_models": engine.models}
        )
        wired = Settings.model_validate({**wired.model_dump(), "engine_secret": engine.secret})
        keys = {hashlib.sha256(key.encode()).hexdigest(): DEMO_TENANT}
        serving = asyncio.create_task(serve(wired, keys, listening.set_result, stop))
        serving.add_done_callback(lambda _: listening.done() or listening.cancel())
        with contextlib.suppress(asyncio.CancelledError):
            await listening
        if serving.done():  # it did not start: let its error say why
            await serving
        table = Table(
            "request",
            "status",
            "answered at",
            Column("note", overflow="fold"),
            title="What was asked, and where it was answered",
        )
        try:
            yield Tour(f"http://127.0.0.1:{listening.result()}", key, wired, engine, emulators, http, table)
        finally:
            stop.set()
            await serving


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
