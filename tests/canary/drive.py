"""Drives a gateway through everything that can happen to a request, with a token wherever one can be put."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.testing.bedrock.faults import Fault
from tests.canary.tokens import new_token
from tests.integration.bundle import DEMO, GLOBEX, HELPDESK
from tests.integration.caller import CHAT, Said
from tests.integration.gateway_process import GatewayProcess, until
from tests.integration.regions import ALL, Regions
from tests.integration.scripted_engine import ScriptedEngine


@dataclass(slots=True)
class Tokens:
    """A new token for each place in which one is planted."""

    planted: dict[str, str] = field(default_factory=dict)

    def new(self, where: str) -> str:
        name = where if where not in self.planted else f"{where} {len(self.planted)}"
        self.planted[name] = new_token()
        return self.planted[name]


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": text}], **fields}


def tool_history(tokens: Tokens, **user: str) -> list[dict[str, Any]]:
    """A conversation with a tool; `user` holds further fields of its first turn."""
    arguments = json.dumps({tokens.new("tool argument's name"): tokens.new("tool argument")})
    call = {"id": f"call_{tokens.new('tool call id')}", "type": "function"}
    function = {"name": f"f_{tokens.new('tool name')}", "arguments": arguments}
    return [
        {"role": "system", "content": tokens.new("system message")},
        {"role": "user", "content": [{"type": "text", "text": tokens.new("text part")}], **user},
        {
            "role": "assistant",
            "content": None,
            "reasoning": tokens.new("reasoning"),
            "tool_calls": [{**call, "function": function}],
        },
        {"role": "tool", "tool_call_id": call["id"], "content": tokens.new("tool result")},
        {"role": "user", "content": tokens.new("last message")},
    ]


def wrong_requests(tokens: Tokens) -> Iterator[tuple[int, bytes, dict[str, str]]]:
    """Expected status, body and headers of what is refused before it begins."""
    text = tokens.new("prompt of a refused request")
    wrong: list[tuple[int, dict[str, Any]]] = [
        (400, {tokens.new("unknown field"): 1}),
        (400, {"metadata": {tokens.new("metadata name"): 7}}),
        (400, {"temperature": tokens.new("temperature")}),
        (400, {"tool_choice": tokens.new("tool choice")}),
        (400, {"stop": [tokens.new("stop")] * 9}),
        (400, {"tools": [{"type": tokens.new("tool type"), "function": {"name": tokens.new("function")}}]}),
        (400, {"tools": [{"type": "function", "function": {"name": f"{tokens.new('bad name')} !"}}]}),
        (400, {"messages": [{"role": tokens.new("role"), "content": text}]}),
        (
            400,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": tokens.new("image")}]}
                ]
            },
        ),
        (400, {"messages": [{"role": "user", tokens.new("field of a message"): text}]}),
        (
            400,
            {"response_format": {"type": "json_schema", "json_schema": {"name": tokens.new("schema") + "?"}}},
        ),
        (400, {"functions": [{"name": tokens.new("deprecated function")}]}),
        (400, {"user": tokens.new("user") * 40}),
        (404, {"model": tokens.new("model")}),
    ]
    for status, fields in wrong:
        yield status, json.dumps(chat(text, **fields)).encode(), {}
    malformed = tokens.new("malformed json")
    yield 400, b'{"messages": [{"content": "' + malformed.encode(), {}
    yield 400, malformed.encode(), {}
    yield 400, f'["{malformed}"]'.encode(), {}
    yield (
        400,
        b'{"model":"gpt-oss-20b","messages":[{"role":"user","content":"' + malformed.encode() + b'\xff"}]}',
        {},
    )
    good = json.dumps(chat(text)).encode()
    yield 400, good, {"x-douane-labels": tokens.new("label header")}
    yield 400, good, {"x-douane-labels": f"personal, {tokens.new('second label')}"}
    yield 401, good, {"authorization": f"Bearer {tokens.new('api key')}"}
    yield 401, good, {"authorization": tokens.new("authorization")}
    yield 415, good, {"content-type": f"text/{tokens.new('content type')}"}
    yield 415, good, {"content-encoding": tokens.new("content encoding")}
    yield 403, good, {"authorization": f"Bearer {HELPDESK}", "x-douane-labels": "secret"}
    yield 413, json.dumps(chat(tokens.new("too large") * 20_000)).encode(), {}


def drive_refusals(gateway: GatewayProcess, tokens: Tokens) -> None:
    """Everything that is refused at the entrance."""
    for status, body, headers in wrong_requests(tokens):
        given = {"authorization": f"Bearer {DEMO}", "content-type": "application/json", **headers}
        response = gateway.http.post(CHAT, content=body, headers=given)
        assert response.status_code == status, (response.text, body[:200], headers)
    other = gateway.http.get(f"/{tokens.new('path')}?{tokens.new('query')}={tokens.new('query value')}")
    assert other.status_code == 404
    receipt = gateway.caller().get(f"/v1/receipts/{tokens.new('receipt id')}")
    assert receipt.status_code == 404
    method = gateway.http.request("PATCH", f"{CHAT}?{tokens.new('query of a method')}")
    assert method.status_code == 405
    for line in (
        f"{tokens.new('not http')}\r\n\r\n",
        f"GET /{tokens.new('bad version')} HTTP/9\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\n{tokens.new('bad header')}\r\n\r\n",
        f"GET / HTTP/1.1\r\nx-a: {tokens.new('large header') * 4000}\r\n\r\n",
    ):
        with (
            socket.create_connection(
                ("127.0.0.1", httpx.URL(gateway.url).port or 80), timeout=10
            ) as connection,
            contextlib.suppress(OSError),
        ):
            connection.sendall(line.encode())
            connection.recv(4096)


def drive_answers(gateway: GatewayProcess, tokens: Tokens) -> list[Said]:
    """Answers of the engine and of Bedrock, plain, streamed and from the cache, with tokens all over."""
    caller = gateway.caller()
    metadata = {"session_id": tokens.new("session id"), "x": tokens.new("metadata")}
    said = []
    for stream in (False, True, False):
        for model in (
            "gpt-oss-20b",
            "gpt-oss-120b",
        ):  # the engine has the first, Bedrock echoes with the second
            headers = {
                f"x-{tokens.new('header name')}": tokens.new("header"),
                "x-douane-backend": tokens.new("spoof"),
                "user-agent": tokens.new("user agent"),
                "x-forwarded-for": tokens.new("forwarded"),
            }
            said.append(
                caller.ask(
                    tokens.planted.setdefault("prompt", new_token()),
                    model=model,
                    stream=stream,
                    max_tokens=30,
                    headers=headers,
                    user=tokens.new("end user"),
                    metadata=metadata,
                )
            )
    tools = [
        {
            "type": "function",
            "function": {
                "name": f"f_{tokens.new('offered tool')}",
                "description": tokens.new("description"),
                "parameters": {"type": "object", "properties": {tokens.new("property"): {"type": "string"}}},
            },
        }
    ]
    called = json.dumps({"a": tokens.new("called argument")})
    name = tools[0]["function"]["name"]  # type: ignore[index]
    said += [
        caller.ask(messages=tool_history(tokens, name=tokens.new("user name")), tools=tools, max_tokens=20),
        caller.ask(messages=tool_history(tokens), tools=tools, model="gpt-oss-120b", stream=True),
        caller.ask(f"[[call {name} {called}]]", tools=tools, model="gpt-oss-120b"),
        caller.ask(f"[[call {name} {called}]]", tools=tools, model="gpt-oss-120b", stream=True, seed=None),
        caller.ask(tokens.new("secret prompt"), labels="secret, personal", max_tokens=5),
    ]
    return said


def drive_faults(gateway: GatewayProcess, tokens: Tokens, regions: Regions) -> None:
    """Every way in which Bedrock can fail, with a token in what it says of it."""
    faults = [
        Fault(kind="error", code=code, message=tokens.new(f"message of {code}"), times=None)
        for code in (
            "ValidationException",
            "ThrottlingException",
            "AccessDeniedException",
            "ModelErrorException",
            "InternalServerException",
            "ExpiredTokenException",
            "ResourceNotFoundException",
        )
    ]
    faults += [
        Fault(
            kind="stream_error",
            code="ModelStreamErrorException",
            message=tokens.new("stream error"),
            after_events=3,
        ),
        Fault(kind="redirect", location=f"https://{tokens.new('location')}.example/"),
        *(
            Fault(kind=kind, after_events=3)
            for kind in ("cut", "reset", "truncated_frame", "bad_crc", "no_metadata")
        ),
        Fault(kind="garbage"),
    ]
    for fault in faults:
        for stream in (False, True):
            regions.mark()
            regions.give(ALL, fault)
            gateway.caller().ask(
                tokens.new(f"prompt at {fault.kind} {fault.code}"),
                model="gpt-oss-120b",
                stream=stream,
                labels="personal",
            )
    regions.mark()


def drive_engine_faults(gateway: GatewayProcess, tokens: Tokens, script: ScriptedEngine) -> None:
    """The same of an engine, whose answers and errors hold tokens; only it may see a secret."""
    for status in (400, 401, 403, 404, 429, 500, 503):
        script.reset()
        script.status = status
        script.error = {
            "message": tokens.new(f"engine's {status}"),
            "code": tokens.new("engine's code"),
            "type": tokens.new("engine's type"),
            "param": tokens.new("engine's param"),
        }
        gateway.caller().ask(tokens.new("prompt at an engine's error"), labels="secret")
        heal(gateway, tokens, script)
    for garbage in (b"%s", b'{"choices": "%s"}', b'{"choices":[{"message":{"content":["%s"]}}]}'):
        script.reset()
        script.garbage = garbage % tokens.new("engine's garbage").encode()
        gateway.caller().ask(tokens.new("prompt at garbage"), labels="secret")
        heal(gateway, tokens, script)
    for stream in (False, True):
        script.reset()
        script.text, script.reasoning = f"x {tokens.new('answer')} y", tokens.new("answer's reasoning")
        text = tokens.new("prompt of an answer")
        for _ in range(2):  # the second one from the cache
            assert script_says(gateway.caller().ask(text, labels="secret", stream=stream), script)
        script.reset()
        script.text, script.break_after = f"{tokens.new('broken answer')} b c d", 2
        gateway.caller().ask(tokens.new("prompt of a broken answer"), labels="secret", stream=stream)
        heal(gateway, tokens, script)


def heal(gateway: GatewayProcess, tokens: Tokens, script: ScriptedEngine) -> None:
    """One good answer, so that the breaker lets the next fault through."""
    script.reset()
    assert gateway.caller().ask(tokens.new("prompt of a good answer"), labels="secret").status == 200


def script_says(said: Said, script: ScriptedEngine) -> bool:
    return said.text.strip() == script.text.strip()


def drive_limits(gateway: GatewayProcess, tokens: Tokens) -> None:
    """A caller's own limit: the test's bundle gives this tenant two requests a minute."""
    statuses = [
        gateway.caller(GLOBEX).ask(tokens.new("prompt over a limit"), max_tokens=2).status for _ in range(4)
    ]
    assert statuses[-1] == 429, statuses


def drive_hangup(gateway: GatewayProcess, tokens: Tokens, script: ScriptedEngine) -> None:
    """A caller who leaves in the middle."""
    script.reset()
    script.pause_s, script.text = 60.0, tokens.new("answer cut by a hang-up")
    headers = {"authorization": f"Bearer {DEMO}", "x-douane-labels": "secret"}
    body = chat(tokens.new("prompt of a hang-up"), stream=True)
    with gateway.http.stream("POST", CHAT, json=body, headers=headers) as response:
        pieces = response.iter_raw()
        next(pieces)
    assert script.hung_up.wait(40)
    script.reset()


def end_in_the_middle(gateway: GatewayProcess, tokens: Tokens, script: ScriptedEngine, number: int) -> int:
    """Signals the gateway while it streams; its exit status."""
    script.reset()
    script.pause_s, script.text = 0.4, f"{tokens.new('answer at the end')} b c d"
    headers = {"authorization": f"Bearer {DEMO}", "x-douane-labels": "secret"}
    body = chat(tokens.new("prompt at the end"), stream=True)
    with (
        contextlib.suppress(httpx.HTTPError),  # killed, it ends no stream
        gateway.http.stream("POST", CHAT, json=body, headers=headers) as response,
    ):
        pieces = response.iter_raw()
        next(pieces)
        gateway.signal(number)
        for _ in pieces:
            pass
    status = gateway.process.wait(60)
    script.reset()
    return status


def drive_bugs(gateway: GatewayProcess, tokens: Tokens) -> list[int]:
    """Bugs whose errors quote the prompt; the statuses that callers got."""
    statuses = []
    for how in ("bug", "chained", "plan", "forgotten", "callback"):
        for stream in (False, True):
            text = f"[[{how}]] {tokens.new(f'prompt of a bug ({how})')}"
            statuses.append(gateway.caller().ask(text, stream=stream).status)
    return statuses


def crash(gateway: GatewayProcess, tokens: Tokens, how: str) -> int:
    """Makes the process crash in the middle of a request; its exit status."""
    with contextlib.suppress(httpx.HTTPError):
        gateway.caller().ask(f"[[{how}]] {tokens.new(f'prompt of a crash ({how})')}")
    until(lambda: gateway.process.poll() is not None, "the process has crashed")
    return int(gateway.process.wait())


CRASHES = {"abort": -signal.SIGABRT, "segfault": -signal.SIGSEGV}
