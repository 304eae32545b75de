"""The emulator's wire, byte by byte where no client library shows it, and its own control paths."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from botocore.eventstream import EventStreamBuffer
from yarl import URL

from gateway.testing.bedrock import eventstream
from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.ledger import Ledger
from gateway.testing.bedrock.model import ServiceModel
from gateway.testing.bedrock.server import Running, running_emulator

CONVERSE = "/model/openai.gpt-oss-20b-1%3A0/converse"


def test_a_frame_is_decoded_by_botocore_to_what_was_encoded() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(eventstream.event("messageStart", {"role": "assistant"}))
    buffer.add_data(eventstream.exception("throttlingException", {"message": "slow down"}))
    started, failed = list(buffer)
    assert (started.headers, started.payload) == (
        {":event-type": "messageStart", ":content-type": "application/json", ":message-type": "event"},
        b'{"role":"assistant"}',
    )
    assert failed.headers[":exception-type"] == "throttlingException"
    assert orjson.loads(failed.payload) == {"message": "slow down"}


def test_the_bytes_of_a_small_frame_are_these() -> None:
    # total length, header length, CRC of both; name, type 7, value; payload; CRC of everything
    expected = "00000018 00000006 dcd1a61f  01 61 07 0001 62  7b7d  f3d78873"
    assert eventstream.frame({"a": "b"}, b"{}").hex() == expected.replace(" ", "")


async def request(running: Running, method: str, path: str, body: bytes = b"") -> tuple[int, Any, Any]:
    async with aiohttp.ClientSession() as http:
        url = URL(running.url + path, encoded=True)
        async with http.request(method, url, data=body) as response:
            return response.status, json.loads(await response.read() or b"null"), dict(response.headers)


async def test_an_unsigned_request_is_refused_and_written_down(frankfurt: Running) -> None:
    status, body, headers = await request(frankfurt, "POST", CONVERSE, b'{"messages":[]}')
    assert (status, body) == (403, {"message": "Missing Authentication Token"})
    assert headers["x-amzn-errortype"] == (
        "MissingAuthenticationTokenException:http://internal.amazon.com/coral/com.amazon.bedrock/"
    )
    (received,) = frankfurt.emulator.ledger.requests
    assert (received.status, received.error, received.access_key) == (
        403,
        "MissingAuthenticationTokenException",
        None,
    )
    assert received.body_sha256 == "5e4ce7b36ba37b78a5d5f9fd08e6b7b54ba6879d651aa46ec9e1d6fa24ebe30a"


async def test_bytes_that_are_no_http_leave_a_connection_in_the_ledger(frankfurt: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", frankfurt.port)
    writer.write(b"\x16\x03\x01 not http\r\n\r\n")
    await writer.drain()
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()
    assert frankfurt.emulator.ledger.requests == ()
    assert len(frankfurt.emulator.ledger.connections) == 1


async def test_faults_are_set_and_the_ledger_is_read_over_http(frankfurt: Running) -> None:
    fault = b'[{"kind": "error", "code": "ThrottlingException", "times": 2}]'
    assert (await request(frankfurt, "POST", "/_emulator/faults", fault))[:2] == (200, {"added": 1})
    assert frankfurt.emulator.faults.take("any") is not None
    assert (await request(frankfurt, "DELETE", "/_emulator/faults"))[:2] == (200, {"cleared": True})
    assert frankfurt.emulator.faults.take("any") is None
    status, ledger, _ = await request(frankfurt, "GET", "/_emulator/ledger")
    assert (status, ledger["region"]) == (200, "eu-central-1")
    assert {entry["kind"] for entry in ledger["entries"]} == {"connection", "control"}
    assert frankfurt.emulator.ledger.requests == ()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "faults", b'[{"kind": "nonsense"}]', 400, "the list of faults is invalid at `0.kind`"),
        (
            "POST",
            "faults",
            b'[{"kind": "cut", "wrong": 1}]',
            400,
            "the list of faults is invalid at `0.wrong`",
        ),
        ("GET", "other", b"", 404, "use `GET ledger`, `POST faults` or `DELETE faults`"),
    ],
)
async def test_a_wrong_control_request_says_what_is_wrong(
    frankfurt: Running, method: str, path: str, body: bytes, status: int, text: str
) -> None:
    assert (await request(frankfurt, method, f"/_emulator/{path}", body))[:2] == (status, {"error": text})


async def test_control_paths_answer_on_loopback_only(service_model: ServiceModel) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": b"/_emulator/ledger",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 1),
    }
    await Emulator("eu-central-1", model=service_model)(scope, receive, send)
    assert sent[0]["status"] == 403


async def test_the_ledger_file_holds_the_same_entries_as_memory(
    service_model: ServiceModel, tmp_path: Path
) -> None:
    file = tmp_path / "ledger.jsonl"
    emulator = Emulator("eu-central-1", model=service_model, ledger=Ledger(file))
    async with running_emulator("eu-central-1", emulator=emulator) as running:
        await request(running, "POST", CONVERSE, b'{"canary":"zebra"}')
    text = file.read_text()
    assert [json.loads(line) for line in text.splitlines()] == emulator.ledger.wire()
    assert "zebra" not in text
    assert len(emulator.ledger.requests) == 1


def test_it_runs_as_a_process_and_ends_on_sigterm(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    command = [
        sys.executable,
        "-m",
        "gateway.testing.bedrock",
        "--region",
        "eu-west-1",
        "--ledger",
        str(file),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("emulated Bedrock eu-west-1 at http://127.0.0.1:")
        url = line.split(" at ")[1].split()[0]
        with urllib.request.urlopen(f"{url}/_emulator/ledger", timeout=20) as answer:
            assert json.load(answer)["region"] == "eu-west-1"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert '"kind":"control"' in file.read_text()
