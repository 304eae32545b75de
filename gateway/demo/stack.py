"""The demo's parts: a tiny checkpoint, a key, emulated Bedrock regions, and a gateway over them.

Nothing of it pretends: the model says that it is a tiny demo, the emulator says so in every answer and
receipt, and the demo's signing key is marked as one that proves nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click

from gateway import __version__
from gateway.egress.guard import Egress
from gateway.engine_process import EngineFailed
from gateway.keys.opening import MASTER_KEY
from gateway.keys.wrapping import MasterKey
from gateway.opening import RECEIPT_KEY
from gateway.policy.load import load_bundle
from gateway.receipts.keys import create_key
from gateway.serving import serve
from gateway.settings import Settings, read_settings
from gateway.testing.bedrock.server import Running, running_emulator

DEMO_TENANT = "demo"
STATE_DIR = Path("var/demo")
DEMO_MODEL = f"model-{__version__}"  # another version may come with another model


def demo_settings(environ: Mapping[str, str], given: Mapping[str, Any]) -> Settings:
    """Settings for the demo: the emulator unless DOUANE_BEDROCK names the real one, state in `var/demo`."""
    defaults = {"bedrock": "emulator"} if "DOUANE_BEDROCK" not in environ else {}
    if "DOUANE_STATE_DIR" not in environ:
        defaults["state_dir"] = str(STATE_DIR)
    return read_settings(environ, **{**defaults, **given})


async def serve_demo(settings: Settings, egress: Egress | None = None) -> None:
    """`douane serve --demo`: prepares what is missing, serves until asked to stop."""
    async with demo_stack(settings) as (settings, key, _):
        await serve(
            settings,
            {hashlib.sha256(key.encode()).hexdigest(): DEMO_TENANT},
            lambda port: click.echo(snippets(settings, port, key)),
            egress=egress,
        )


@asynccontextmanager
async def demo_stack(settings: Settings) -> AsyncIterator[tuple[Settings, str, tuple[Running, ...]]]:
    """The settings with the emulators' URLs and a checkpoint, the demo key, and the running emulators."""
    prepare_state(settings.state_dir)
    model = settings.model or await make_checkpoint(settings.state_dir / DEMO_MODEL)
    async with AsyncExitStack() as stack:
        emulators: tuple[Running, ...] = ()
        if settings.bedrock == "emulator":
            bundle = await asyncio.to_thread(load_bundle, settings.policies)
            regions = sorted(
                {place.region for place in bundle.places.values() if place.kind == "bedrock" and place.region}
            )
            emulators = tuple(
                [await stack.enter_async_context(running_emulator(region)) for region in regions]
            )
        urls = {running.emulator.region: running.url for running in emulators}
        key = (
            settings.demo_key.get_secret_value()
            if settings.demo_key
            else f"sk-demo-{secrets.token_urlsafe(24)}"
        )
        yield (
            settings.model_copy(
                update={"model": model if settings.engine_url is None else None, "emulator_urls": urls}
            ),
            key,
            emulators,
        )


def prepare_state(state_dir: Path) -> None:
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (state_dir / MASTER_KEY).exists():
        MasterKey.create(state_dir / MASTER_KEY)
    if not (state_dir / RECEIPT_KEY).exists():
        create_key(state_dir / RECEIPT_KEY, demo=True)


async def make_checkpoint(directory: Path, report: Callable[[str], None] = click.echo) -> Path:
    """Writes the demo checkpoint once. Raises `EngineFailed`."""
    if (directory / "config.json").exists():
        return directory
    report(f"writing a tiny gpt-oss checkpoint to {directory} (once)")
    part = directory.with_name(f"{directory.name}.part")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "local_engine", "make-checkpoint", str(part), "--preset", "demo",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait() != 0:
        raise EngineFailed("the demo checkpoint could not be written; read the message above")
    part.rename(directory)
    return directory


def snippets(settings: Settings, port: int, key: str) -> str:
    """What `make run` prints: calls that work as pasted."""
    scheme = "https" if settings.tls_cert else "http"
    url = f"{scheme}://{settings.host}:{port}/v1"
    bedrock = {
        "emulator": "an emulator on this machine: every answer from it says `x-douane-emulated: true`",
        "aws": "AWS, with this machine's credentials",
        "off": "off",
    }[settings.bedrock]
    model = (
        "a tiny model trained on made-up conversations: it makes small talk and knows nothing"
        if settings.model and settings.model.name == DEMO_MODEL
        else settings.model
    )
    return f"""
Douane is ready at {url}
  demo key   {key}
  engine     {model}
  bedrock    {bedrock}
  store      {"redis" if settings.redis_url else "in this process"}
  policies   {settings.policies} (this key is the tenant `{DEMO_TENANT}`)

Paste into another terminal:

curl {url}/chat/completions -i \\
  -H 'authorization: Bearer {key}' \\
  -H 'content-type: application/json' \\
  -d '{{"model": "gpt-oss-20b", "messages": [{{"role": "user", "content": "Bonjour"}}]}}'

or, with the labels that say what the request carries, as a stream:

curl {url}/chat/completions -N \\
  -H 'authorization: Bearer {key}' -H 'x-douane-labels: personal' \\
  -H 'content-type: application/json' \\
  -d '{{"model": "gpt-oss-20b", "stream": true, "messages": [{{"role": "user", "content": "Bonjour"}}]}}'

or, in Python (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}", api_key="{key}")
question = [{{"role": "user", "content": "Bonjour"}}]
answer = client.chat.completions.create(model="gpt-oss-20b", messages=question)
print(answer.choices[0].message.content)

Ctrl-C ends the gateway, the engine and the emulator.
"""
