"""No secret is in what the gateway shows: by `repr`, in tracebacks with variables, or in what it writes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from gateway import chat as life
from gateway.app import create_app
from gateway.cli.main import main
from gateway.context import GatewayContext
from gateway.logs import ContentFreeFormatter
from gateway.opening import open_context
from gateway.settings import Settings, read_settings
from tests.canary.tokens import files_under
from tests.gateway.inprocess import Client, chat
from tests.redis_server import RedisServer
from tests.secrets.graph import reachable
from tests.secrets.planted import PLANTED, found, found_in
from tests.sinks.bundle import COLLECTOR, bundle_with_sinks

pytestmark = pytest.mark.needs("redis-server")

GATEWAY = Path(life.__file__).parent
SERVER_PLACE = """
  - id: house
    kind: openai
    models: {gpt-oss-20b: gpt-oss-20b}
    country: DE
    operator: self
    attested: [on-premises]
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", ("--requirepass", PLANTED.redis_password))
    server.start()
    yield server
    server.end()


@pytest.fixture
def planted_settings(tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Every setting that holds a secret has a planted one; nothing answers at the addresses."""
    policies = bundle_with_sinks(tmp_path / "policies")
    places = policies / "places.yaml"
    places.write_text(places.read_text() + SERVER_PLACE)
    PLANTED.write_keys(tmp_path / "state")
    monkeypatch.setattr("gateway.sinks.traces.CLOSE_S", 0.1)  # nothing takes the traces
    for name, value in PLANTED.environ().items():
        monkeypatch.setenv(name, value)
    nowhere = "http://127.0.0.1:9"
    return read_settings(
        {},
        policies=policies,
        policy_poll_s=3600,
        state_dir=tmp_path / "state",
        redis_url=f"{PLANTED.redis_url}:{redis.port}/0",
        engine_url=nowhere,
        engine_secret=PLANTED.engine_secret,
        backends={
            "house": {
                "url": nowhere, "secret": PLANTED.server_secret,
                "input_usd_per_million_tokens": 1, "output_usd_per_million_tokens": 1,
            }
        },
        bedrock="aws",
        trace_url=f"{nowhere}/v1/traces",
        trace_place=COLLECTOR,
        trace_secret=PLANTED.collector_token,
        trace_content=True,
        content_log=tmp_path / "content",
        content_log_place="content-log",
        demo_key=PLANTED.api_key,
    )  # fmt: skip


@pytest.fixture
async def context(planted_settings: Settings) -> AsyncIterator[GatewayContext]:
    keys = {hashlib.sha256(PLANTED.api_key.encode()).hexdigest(): "demo"}
    async with open_context(planted_settings, keys) as opened:
        await opened.backends._credentials.current()
        yield opened


class ServersClient(Client):
    """Shows itself as the server's own objects do, whose methods the gateway is given."""

    def __repr__(self) -> str:
        return "a client"


async def ask(context: GatewayContext, labels: str = "secret", text: str = "hello", **fields: Any) -> Client:
    """Judged as secret, so that no cloud is tried, and the servers that are may not be there."""
    made = chat(text, key=PLANTED.api_key, labels=labels, **fields)
    client = ServersClient(made.body, made.headers)
    await client.ask(context)
    return client


async def test_the_search_would_find_each_secret_in_each_form() -> None:
    for secret in PLANTED.all().values():
        assert found(f"... {secret!r} ...")
    assert "api_key as raw" in found(f"Bearer {PLANTED.api_key}")
    assert found(PLANTED.master.hex()) == ["master as hex"]
    assert found(PLANTED.redis_url) == ["redis_password as url"]


async def test_nothing_that_the_gateway_holds_shows_a_secret(context: GatewayContext) -> None:
    await ask(context)
    shown = {path: repr(one) for path, one in reachable(context)}

    assert len(shown) > 1000
    kinds = {path.rpartition(".")[2] for path in shown}
    assert {"settings", "signer", "tenant_keys", "store", "backends"} <= kinds
    assert found_in(shown) == {}


PLACES_OF_FAILURE = (
    "gateway.chat.parse_chat", "gateway.chat.conversation_of", "gateway.chat.detect_labels",
    "gateway.chat.collect_facts", "gateway.chat.permit", "gateway.chat.reserve_and_look_up",
    "gateway.chat.plan", "gateway.begin.Begin", "gateway.chat.attempt_in_order",
    "gateway.policy.bundle.Bundle.caller", "gateway.backends.openai.openai_wire.request_body",
    "gateway.backends.openai.OpenAIBackend._send","gateway.store.redis.RedisStore.enter",
    "gateway.store.wire.Wire.call", "gateway.keys.keyring.TenantKeys.commit",
    "gateway.keys.derived.derive", "gateway.keys.keyring.TenantKeys._opened",
    "gateway.keys.shelf.FileShelf.find",
    "gateway.conclusion.receipt_of",
    "gateway.backends.openai.transport_fault", "gateway.backends.bedrock.URL",
    "gateway.backends.signing.AWSRequest", "gateway.backends.signing.SigV4AuthAt.add_auth",
)  # fmt: skip


class Bug(Exception):
    """What nobody foresaw."""


def locals_of(error: BaseException) -> dict[str, str]:
    """The variables of each of the gateway's frames in a traceback, causes included, as crash reporters send
    them. Frames of the test itself hold what it plants, and those of libraries what they are given."""
    shown: dict[str, str] = {}
    waiting = [traceback.TracebackException.from_exception(error, capture_locals=True)]
    while waiting:
        one = waiting.pop()
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        for frame in one.stack:
            if frame.filename.startswith(str(GATEWAY)):
                for name, value in (frame.locals or {}).items():
                    shown[f"{Path(frame.filename).name}:{frame.name}:{name}"] = value
        shown["text"] = shown.get("text", "") + str(one)
    return shown


async def test_no_variable_of_a_traceback_shows_a_secret(
    context: GatewayContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever something fails that nobody foresaw, in the course of a request."""

    def broken(*arguments: Any, **named: Any) -> Any:
        raise Bug("nobody foresaw this")

    shown: dict[str, list[str]] = {}
    for place in PLACES_OF_FAILURE:
        caplog.clear()
        context.tenant_keys._derived.clear()
        client, met = None, list[BaseException]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, broken)
            try:
                cloud = place.startswith(("gateway.backends.signing", "gateway.backends.bedrock"))
                client = await ask(context, "public" if cloud else "secret", f"at {place}")
            except Bug as bug:
                met.append(bug)
        met += [one.exc_info[1] for one in caplog.records if one.exc_info and one.exc_info[1]]
        assert [type(one) for one in met if isinstance(one, Bug)], place
        for error in met:
            variables = locals_of(error)
            assert len(variables) > 5, place
            shown |= {f"{place}: {name}": names for name, names in found_in(variables).items()}
        formatted = [ContentFreeFormatter().format(one) for one in caplog.records]
        shown |= found_in({f"{place}: log": "\n".join(formatted)})
        if client is not None:
            shown |= found_in({f"{place}: answer": client.answer.decode() + repr(client.sent)})
    assert shown == {}


PLACES_OF_START = (
    "gateway.opening.first_load", "gateway.opening.ReloadingSigner", "gateway.opening.open_file_audit",
    "gateway.opening.destinations", "gateway.egress.destinations.credential_hosts",
    "gateway.store.address.unquote", "gateway.store.redis.Link", "gateway.store.wire.Wire.call",
    "gateway.building.engine_backend", "gateway.backends.openai.require_safe",
    "gateway.building.SigV4Signer", "gateway.sinks.opening.ContentLog", "gateway.opening.Started",
    "gateway.receipts.keys.SigningKey", "gateway.keys.opening.TenantKeys",
    "gateway.keys.wrapping.derive",
)  # fmt: skip


async def test_no_variable_of_a_failed_start_shows_a_secret(planted_settings: Settings) -> None:
    def broken(*arguments: Any, **named: Any) -> Any:
        raise Bug("nobody foresaw this")

    shown: dict[str, list[str]] = {}
    for place in PLACES_OF_START:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, broken)
            try:
                async with open_context(planted_settings, {}):
                    pytest.fail(f"`{place}` has no part in the start")
            except Bug as bug:
                found_there = found_in(locals_of(bug))
        shown |= {f"{place}: {name}": names for name, names in found_there.items()}
    assert shown == {}


ERRORS = (
    b"not json", b"{}", b'{"model": "gpt-oss-20b"}', b'{"model": "no-such-model", "messages": []}',
    b'{"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "hello"}], "x": 1}',
)  # fmt: skip


async def test_nothing_that_the_gateway_says_or_writes_holds_a_secret(
    context: GatewayContext, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Answers of each route and error, headers and receipts among them, logs, metrics, and every file."""
    said: dict[str, Any] = {}
    for number, labels in enumerate(("secret", "nonsense", "personal")):
        client = await ask(context, labels, stream=number == 0)
        said[f"chat, {labels}"] = client.sent
    transport = httpx.ASGITransport(create_app(context.settings, context))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        key = {"authorization": f"Bearer {PLANTED.api_key}"}
        wrong = {"authorization": f"Bearer {PLANTED.api_key}-not"}
        for headers in (key, wrong, {"authorization": PLANTED.api_key}, {}):
            for path in ("/v1/models", "/v1/receipts/rcpt_" + "0" * 32, "/v1/nothing"):
                response = await http.get(path, headers=headers)
                said[f"{path} {headers}"] = (response.text, response.headers.raw)
        for path in ("/metrics", "/readyz", "/healthz", "/.well-known/jwks.json", "/openapi.json"):
            said[path] = (await http.get(path)).text
        for body in ERRORS:
            response = await http.post("/v1/chat/completions", headers=key, content=body)
            said[repr(body)] = (response.text, response.headers.raw)
    said["log"] = "\n".join(ContentFreeFormatter().format(one) for one in caplog.records)
    await context.sinks.aclose()
    written = files_under(tmp_path, but=("master.key", "receipt-key.pem"))
    said |= {f"file {name}": content.decode("latin-1") for name, content in written.items()}

    assert len(said) > 25
    assert any("file" in name and ".jsonl" in name for name in said)
    assert {
        name: names for name, names in found_in(said).items() if not name.startswith("file tenants")
    } == {}


COMMANDS = (
    ("doctor", "--all", "--format", "json"), ("egress", "--format", "json"), ("egress",),
    ("policy", "check", "POLICIES", "--format", "json"), ("policy", "prove", "POLICIES", "--format", "json"),
    ("receipt", "jwks", "STATE/receipt-key.pem"), ("receipt", "public-key", "STATE/receipt-key.pem"),
    ("receipt", "verify", "--format", "json", "STATE/receipt-key.pem"),
    ("audit", "verify", "STATE/audit", "--format", "json"), ("receipt", "rotate", "--state-dir", "STATE"),
    ("init", "--state-dir", "STATE"),
)  # fmt: skip


def write_config(settings: Settings, path: Path) -> None:
    """The same settings in a file, without Bedrock and with a Redis password that is refused."""
    values = settings.model_dump(mode="json", exclude_unset=True, exclude={"demo_key"})
    values["engine_secret"], values["trace_secret"] = PLANTED.engine_secret, PLANTED.collector_token
    values["backends"]["house"]["secret"] = PLANTED.server_secret
    assert settings.redis_url is not None
    values["redis_url"] = settings.redis_url.get_secret_value().replace("@", "-not@")
    path.write_text(yaml.safe_dump({**values, "bedrock": "off", "port": 0}))
    path.chmod(0o600)


def test_a_start_that_fails_prints_no_secret(planted_settings: Settings, tmp_path: Path) -> None:
    write_config(planted_settings, tmp_path / "douane.yaml")

    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "serve"],
        env={**os.environ, "DOUANE_CONFIG": str(tmp_path / "douane.yaml")},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 3
    assert "check user, password and database in the Redis URL" in done.stderr
    assert found(done.stdout + done.stderr) == []


def test_no_command_prints_a_secret(
    planted_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they print, in JSON too, and what they would show when they fail."""
    write_config(planted_settings, tmp_path / "douane.yaml")
    monkeypatch.setenv("DOUANE_CONFIG", str(tmp_path / "douane.yaml"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # commands set it for the rest of the process

    shown: dict[str, str] = {}
    for command in COMMANDS:
        words = [
            word.replace("STATE", str(tmp_path / "state")).replace("POLICIES", str(tmp_path / "policies"))
            for word in command
        ]
        done = CliRunner().invoke(main, words)
        assert done.output, command
        trace = locals_of(done.exception) if isinstance(done.exception, Exception) else {}
        shown[" ".join(command)] = done.output + repr(trace)
    assert found_in(shown) == {}
