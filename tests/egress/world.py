"""The world of a namespace: AWS, a provider, a house server and a Redis, under their real names and ports."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import trustme
from aiohttp import web

from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.server import running_emulator
from gateway.testing.bedrock.signature import Keys
from tests.backends.support import SERVICE_MODEL
from tests.integration.bundle import bundle_with_keys, edit, without_examples
from tests.integration.regions import ALL
from tests.redis_server import RedisServer

TOKEN = "token-of-the-assumed-role"
KEYS = Keys(token=TOKEN)
REGIONS = {region: f"10.77.0.{number}" for number, region in enumerate(ALL, 1)}
STS, PROVIDER, HOUSE = "sts.eu-central-1.amazonaws.com", "api.mistral.ai", "vllm.internal"
REDIS, REBOUND, ELSEWHERE = "redis.internal", "rebound.internal", "exfiltration.example"
NAMES = {
    STS: "10.77.1.1",
    PROVIDER: "10.77.1.2",
    HOUSE: "10.77.1.3",
    REDIS: "127.0.0.1",
    REBOUND: "203.0.113.66",  # outside the private range that its place declares
    **{f"bedrock-runtime.{region}.amazonaws.com": address for region, address in REGIONS.items()},
}
HOUSE_PORT = 8443
NAMESERVER = "198.51.100.53"
ADDRESSES = sorted({address for address in NAMES.values() if address.startswith("10.")})

PLACES = """
  - {id: mistral, kind: litellm, country: FR, operator: self,
     models: {mistral-small: openai/mistral-small}}
  - {id: house, kind: openai, country: DE, operator: self, models: {house-model: house},
     private_range: [10.77.0.0/16]}
  - {id: rebound, kind: openai, country: DE, operator: self, models: {rebound-model: house},
     private_range: [10.0.0.0/8]}
"""
ROUTE = """
  - id: {model}
    models: [{model}]
    tiers: [[{{place: {place}}}]]
    attempts_max: 2
    first_byte_timeout_s: 30
    total_timeout_s: 60
"""
ASSUMED = f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><AssumedRoleId>AROA:g</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/g/g</Arn>
</AssumedRoleUser><Credentials><AccessKeyId>{KEYS.access_key}</AccessKeyId>
<SecretAccessKey>{KEYS.secret_key}</SecretAccessKey><SessionToken>{TOKEN}</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
AWS_CONFIG = """[profile gateway]
role_arn = arn:aws:iam::123456789012:role/gateway
source_profile = base
region = eu-central-1

[profile base]
aws_access_key_id = AKIDOFTHEBASEPROFILE
aws_secret_access_key = secret
"""


@dataclass(slots=True)
class World:
    """What runs, and what it received."""

    folder: Path
    emulators: dict[str, Emulator]
    received: dict[str, list[str]]
    redis: RedisServer
    environ: dict[str, str]
    bundle: Path

    def counts(self) -> dict[str, int]:
        """Requests by whoever received any."""
        regions = {region: len(one.ledger.requests) for region, one in self.emulators.items()}
        servers = {name: len(paths) for name, paths in self.received.items()}
        return {name: count for name, count in {**regions, **servers}.items() if count}


def name_everything(folder: Path) -> None:
    """`/etc/hosts` and `/etc/resolv.conf` of this mount namespace."""
    hosts = ["127.0.0.1 localhost", "::1 localhost", *(f"{to} {name}" for name, to in NAMES.items())]
    for path, text in (
        ("/etc/hosts", "\n".join(hosts) + "\n"),
        ("/etc/resolv.conf", f"nameserver {NAMESERVER}\noptions timeout:1 attempts:1\n"),
    ):
        mine = folder / Path(path).name
        mine.write_text(text)
        subprocess.run(["mount", "--bind", str(mine), path], check=True)


def bundle_of_the_world(folder: Path) -> Path:
    bundle = bundle_with_keys(folder / "bundle")
    without_examples(bundle)
    with (bundle / "places.yaml").open("a") as places:
        places.write(PLACES)
    edit(
        bundle / "places.yaml",
        "  - id: store-redis           # the same, shared between gateways\n",
        "  - id: store-redis\n    private_range: [127.0.0.0/8]\n",
    )
    with (bundle / "routes.yaml").open("a") as routes:
        for model, place in (
            ("mistral-small", "mistral"),
            ("house-model", "house"),
            ("rebound-model", "rebound"),
        ):
            routes.write(ROUTE.format(model=model, place=place))
    return bundle


def completion(text: str) -> dict[str, Any]:
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }  # fmt: skip


def events(text: str) -> list[bytes]:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices: list[Any] = [
        [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]
    usage = {"choices": [], "usage": completion("")["usage"]}
    parts = [*({**chunk, "choices": one} for one in choices), {**chunk, **usage}]
    return [*(b"data: %b\n\n" % orjson.dumps(part) for part in parts), b"data: [DONE]\n\n"]


def answering(name: str, received: list[str]) -> web.Application:
    """An OpenAI-compatible server; a prompt with `redirect` in it is sent on to somewhere else."""

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        received.append(request.path)
        prompt = body["messages"][-1]["content"]
        if "redirect" in prompt:
            target = HOUSE if name != HOUSE and "allowed" in prompt else ELSEWHERE
            port = f":{HOUSE_PORT}" if target == HOUSE else ""
            raise web.HTTPTemporaryRedirect(f"https://{target}{port}{request.path}")
        if not body.get("stream"):
            return web.json_response(completion(f"{name} answers"))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in events(f"{name} answers"):
            await response.write(part)
        return response

    async def token_service(request: web.Request) -> web.Response:
        received.append(request.path)
        return web.Response(text=ASSUMED, content_type="text/xml")

    application = web.Application()
    if name == STS:
        application.router.add_post("/", token_service)
    else:
        application.router.add_post("/v1/chat/completions", chat)
    return application


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    """Starts all of it; the network and its names must be there."""
    authority = trustme.CA()
    roots = folder / "roots.pem"
    authority.cert_pem.write_to_path(roots)
    (folder / "aws-config").write_text(AWS_CONFIG)
    emulators = {region: Emulator(region, keys=KEYS, model=SERVICE_MODEL) for region in REGIONS}
    received: dict[str, list[str]] = {STS: [], PROVIDER: [], HOUSE: []}
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()

    def certified(name: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(name)
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(chain)
        issued.private_key_pem.write_to_path(key)
        return chain, key

    async def start() -> None:
        for region, emulator in emulators.items():
            chain, key = certified(f"bedrock-runtime.{region}.amazonaws.com")
            await stack.enter_async_context(
                running_emulator(
                    region, emulator=emulator, host=REGIONS[region], port=443, certificate=chain, key=key
                )
            )
        for name, port in ((STS, 443), (PROVIDER, 443), (HOUSE, HOUSE_PORT)):
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*certified(name))
            runner = web.AppRunner(answering(name, received[name]), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, NAMES[name], port, ssl_context=tls).start()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    (folder / "redis").mkdir()
    chain, key = certified(REDIS)
    redis = RedisServer(
        folder / "redis",
        ("--tls-cert-file", str(chain), "--tls-key-file", str(key), "--tls-ca-cert-file", str(roots),
         "--tls-auth-clients", "no"),
        tls=True,
    )  # fmt: skip
    redis.start()
    environ = {
        "AWS_CONFIG_FILE": str(folder / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_PROFILE": "gateway",
        "AWS_CA_BUNDLE": str(roots),
        "SSL_CERT_FILE": str(roots),
    }
    try:
        yield World(folder, emulators, received, redis, environ, bundle_of_the_world(folder))
    finally:
        redis.end()
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)


def settings_of(world: World, port: int, **further: Any) -> dict[str, Any]:
    """Settings of a gateway in this world."""
    secret = "secret-of-a-server"
    return {
        "port": port,
        "policies": str(world.bundle),
        "state_dir": str(world.folder / "state"),
        "bedrock": "aws",
        "redis_url": f"rediss://{REDIS}:{world.redis.port}/0?ca_file={world.folder / 'roots.pem'}",
        "ca_file": str(world.folder / "roots.pem"),
        "policy_poll_s": 3600,
        "backends": {
            "mistral": {"url": f"https://{PROVIDER}/v1", "secret": secret},
            "house": {"url": f"https://{HOUSE}:{HOUSE_PORT}", "secret": secret},
            "rebound": {"url": f"https://{REBOUND}", "secret": secret},
        },
        **further,
    }
