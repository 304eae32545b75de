"""What is wrong with a request is said in OpenAI's shape, within bounds, and the process stays up."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.integration.bundle import DEMO, GLOBEX
from tests.integration.caller import CHAT, Caller
from tests.integration.gateway_process import GatewayProcess, running_gateway
from tests.integration.scripted_engine import ScriptedEngine

BODY_LIMIT = 64 * 1024
HEAD_LIMIT = 8 * 1024
GOOD = b'{"model":"gpt-oss-20b","messages":[{"role":"user","content":"hello"}]}'


@pytest.fixture(scope="module")
def narrow(
    scripted_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway with small bounds, so that a test reaches them quickly."""
    settings = {
        **scripted_settings,
        "body_limit_bytes": BODY_LIMIT,
        "header_limit_bytes": HEAD_LIMIT,
        "header_timeout_s": 0.5,
        "body_timeout_s": 0.5,
    }
    with running_gateway(tmp_path_factory.mktemp("narrow"), settings) as running:
        yield running


@pytest.fixture
def caller(narrow: GatewayProcess, script: ScriptedEngine) -> Iterator[Caller]:
    """Whatever the test does to it, the gateway answers the next request."""
    yield narrow.caller()
    assert narrow.caller().ask("still there").status == 200
    assert narrow.process.poll() is None


def padded(size: int) -> bytes:
    """A valid request of exactly `size` bytes."""
    return GOOD.replace(b"hello", b"x" * (size - len(GOOD) + len(b"hello")))


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": schema}
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_body"),
        (b"hello", "malformed_body"),
        (b"[]", "malformed_body"),
        (b"null", "malformed_body"),
        (b'{"model": "gpt-oss-20b", "messages": ', "malformed_body"),
        (GOOD + b"}", "malformed_body"),
        (GOOD.replace(b"hello", b"\xff\xfe"), "malformed_body"),
        (GOOD.replace(b'"hello"', b"NaN"), "malformed_body"),
        (GOOD.replace(b'"hello"', deep(20_000).encode()), "malformed_body"),
        (json.dumps({**json.loads(GOOD), "tools": [nested(70)]}).encode(), "malformed_body"),
        (b"{}", "invalid_request"),
        (b'{"model":"gpt-oss-20b","messages":[]}', "invalid_request"),
        (b'{"model":"gpt-oss-20b","messages":[{"role":"wizard","content":"x"}]}', "invalid_request"),
        (
            b'{"model":"gpt-oss-20b","messages":[{"role":"user","content":[{"type":"image_url"}]}]}',
            "invalid_request",
        ),
        (b'{"model":7,"messages":[{"role":"user","content":"x"}]}', "invalid_request"),
    ],
)
def test_a_body_that_is_no_chat_request_is_refused(caller: Caller, body: bytes, code: str) -> None:
    said = caller.post(body)

    assert (said.status, said.error["type"]) == (400, "invalid_request_error")
    assert said.code in (code, "unsupported_parameter")
    assert said.receipt().outcome == "refused"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"audio": {"voice": "x"}}, "unsupported_parameter", "audio"),
        ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
        ({"prompt_cache_key": "mine"}, "unsupported_parameter", "prompt_cache_key"),
        ({"service_tier": "priority"}, "unsupported_parameter", "service_tier"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"tempratur": 1}, "unknown_parameter", "body"),
        ({"allowed_model_region": "eu"}, "unknown_parameter", "body"),
        ({"temperature": 2.5}, "invalid_request", "temperature"),
        ({"max_tokens": 0}, "invalid_request", "max_tokens"),
        ({"stream": "yes"}, "invalid_request", "stream"),
    ],
)
def test_a_parameter_that_cannot_be_honoured_is_refused_by_name(
    caller: Caller, fields: dict[str, Any], code: str, param: str
) -> None:
    said = caller.ask(**fields)

    assert (said.status, said.code, said.error["param"]) == (400, code, param)
    assert f"`{next(iter(fields))}`" in said.error["message"]


def test_a_parameter_that_no_permitted_place_honours_is_refused_by_name(caller: Caller) -> None:
    """The engine alone may see a secret, and harmony has no place for an author of instructions."""
    named = {"role": "system", "content": "be brief", "name": "editor"}
    said = caller.ask(labels="secret", messages=[named, {"role": "user", "content": "hello"}])

    assert (said.status, said.code) == (400, "unsupported_parameter")
    assert "messages[0].name" in said.error["message"]


@pytest.mark.parametrize(
    ("key", "status", "code"), [(None, 401, "invalid_api_key"), ("sk-guess", 401, "invalid_api_key")]
)
def test_without_a_known_key_nothing_is_said(
    narrow: GatewayProcess, key: str | None, status: int, code: str
) -> None:
    said = narrow.caller(key).ask()

    assert (said.status, said.code) == (status, code)
    assert said.headers["www-authenticate"] == "Bearer"
    assert narrow.caller(key).get("/v1/models").status_code == status
    assert narrow.caller(key).get("/v1/receipts/rcpt_" + "0" * 32).status_code == status


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer,", "abc", "Bearer\tx"])
def test_a_key_in_another_form_is_refused(narrow: GatewayProcess, header: str) -> None:
    said = narrow.caller(None).ask(headers={"authorization": header})

    assert (said.status, said.code) == (401, "invalid_api_key")


def test_a_model_that_the_key_may_not_use_is_refused(narrow: GatewayProcess) -> None:
    said = narrow.caller(GLOBEX).ask(model="gpt-oss-120b")

    assert (said.status, said.code) == (403, "model_not_allowed")
    assert "`gpt-oss-20b`" in said.error["message"]


def test_a_body_at_the_limit_is_read_and_one_byte_more_is_not(caller: Caller) -> None:
    assert caller.post(padded(BODY_LIMIT)).status == 200
    said = caller.post(padded(BODY_LIMIT + 1))

    assert (said.status, said.code) == (413, "body_too_large")
    assert str(BODY_LIMIT) in said.error["message"]


def test_the_openai_package_reads_why_a_large_body_was_refused(narrow: GatewayProcess) -> None:
    messages = [{"role": "user", "content": "x" * BODY_LIMIT * 3}]
    http = httpx.Client(trust_env=False)
    with (
        openai.OpenAI(base_url=f"{narrow.url}/v1", api_key=DEMO, max_retries=0, http_client=http) as sdk,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        sdk.chat.completions.create(model="gpt-oss-20b", messages=messages)  # type: ignore[arg-type]

    assert (raised.value.status_code, raised.value.code) == (413, "body_too_large")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_far_over_the_limit_is_not_held(
    narrow: GatewayProcess, caller: Caller, declared: bool
) -> None:
    size, piece = 64 * 1024 * 1024, b"x" * 65536
    before = peak_bytes(narrow.process.pid)
    framing = f"content-length: {size}" if declared else "transfer-encoding: chunked"
    with connect(narrow) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n".encode())
        sent = 0
        try:
            while sent < size:
                connection.sendall(piece if declared else b"10000\r\n" + piece + b"\r\n")
                sent += len(piece)
        except OSError:
            pass  # it stopped listening, as it should
    assert sent < size
    assert peak_bytes(narrow.process.pid) - before < 16 * 1024 * 1024


def test_a_body_that_is_declared_far_over_the_limit_is_refused_before_it_is_sent(
    narrow: GatewayProcess, caller: Caller
) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_LIMIT * 100}\r\n\r\n"
    with connect(narrow) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert b'"code":"body_too_large"' in answer


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever held."""
    (line,) = [
        one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "gzip"},
        {"content-encoding": "br"},
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data"},
    ],
)
def test_a_body_that_is_not_plain_json_is_not_read(caller: Caller, headers: dict[str, str]) -> None:
    said = caller.post(gzip.compress(GOOD), headers)

    assert (said.status, said.code) == (415, "unsupported_encoding")


def test_the_charset_of_json_may_be_named(caller: Caller) -> None:
    assert caller.post(GOOD, {"content-type": "application/json; charset=utf-8"}).status == 200
    assert caller.post(GOOD, {"content-encoding": "identity"}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/completions", 404, "not_found"),
        ("GET", "/v1/chat/completions/", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/../metrics", 404, "not_found"),
    ],
)
def test_another_path_or_method_is_refused_in_the_same_shape(
    caller: Caller, method: str, path: str, status: int, code: str
) -> None:
    with connect_to(caller) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        head, _, body = everything(connection).partition(b"\r\n\r\n")

    assert head.split(b" ")[1] == str(status).encode()
    assert json.loads(body)["error"]["code"] == code


def test_two_keys_in_one_request_are_refused(narrow: GatewayProcess) -> None:
    headers = [
        ("authorization", f"Bearer {DEMO}"),
        ("authorization", "Bearer other"),
        ("content-type", "application/json"),
    ]
    response = narrow.http.post(CHAT, content=GOOD, headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


def connect(gateway: GatewayProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 80), timeout=10)


def connect_to(caller: Caller) -> socket.socket:
    return socket.create_connection(("127.0.0.1", caller.http.base_url.port or 80), timeout=10)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts: list[bytes] = []
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return b"".join(parts)
        if not data:
            return b"".join(parts)
        parts.append(data)


@pytest.mark.parametrize("sent", [b"", b"POST ", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a: "])
def test_a_head_that_does_not_arrive_in_time_is_not_waited_for(caller: Caller, sent: bytes) -> None:
    with connect_to(caller) as connection:
        connection.sendall(sent)
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_does_not_arrive_in_time_is_not_waited_for(caller: Caller) -> None:
    with connect_to(caller) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode()
            + f"authorization: Bearer {DEMO}\r\ncontent-length: 100\r\n\r\n{{".encode()
        )
        answer = everything(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


@pytest.mark.parametrize("value", [b"x" * (HEAD_LIMIT + 1), b"x" * HEAD_LIMIT * 100])
def test_a_head_over_the_limit_is_refused(caller: Caller, value: bytes) -> None:
    with connect_to(caller) as connection:
        with contextlib.suppress(OSError):  # it stopped listening, as it should
            connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-a: ".encode() + value + b"\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/metrics"])
def test_a_head_over_the_limit_is_refused_on_every_path(caller: Caller, path: str) -> None:
    with connect_to(caller) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-a: {'x' * HEAD_LIMIT}\r\n\r\n".encode())
        assert everything(connection).startswith(b"HTTP/1.1 431 ")


POST = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        f"{POST}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        f"{POST}content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        f"{POST}content-length: -1\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nhost : x\r\n\r\n",
        "HELLO\r\n\r\n",
    ],
)
def test_a_head_that_two_servers_could_read_differently_is_refused(caller: Caller, head: str) -> None:
    with connect_to(caller) as connection:
        connection.sendall(head.encode())
        connection.shutdown(socket.SHUT_WR)
        assert everything(connection).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 "))
