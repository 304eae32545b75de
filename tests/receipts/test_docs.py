"""The page on receipts says what is so: its client checks a real receipt, its limits are the code's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gateway.receipts.delivery import HEADER, HEADER_BYTES_MAX, stream_comment
from gateway.receipts.digest import StreamDigest, body_digest
from gateway.receipts.receipt import AnswerClaim, RequestClaim

from .samples import FULL, SIGNER

PAGE = (Path(__file__).parents[2] / "docs" / "receipts.md").read_text()
EVENTS = (b'{"choices":[{"delta":{"content":"h\xc3\xa9"}}]}', b'{"choices":[],"usage":{}}')


@contextmanager
def gateway(delivered: tuple[bytes, ...]) -> Iterator[str]:
    """A server that signs a receipt over EVENTS and delivers `delivered`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(json.dumps(SIGNER.jwks()).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            digest = StreamDigest()
            for event in EVENTS:
                digest.add(event)
            receipt = replace(
                FULL,
                request=RequestClaim("req_1", body_digest(body), len(body)),
                answer=AnswerClaim("stream", digest.hexdigest(), digest.size),
            )
            events = b"".join(b"data: " + event + b"\n\n" for event in delivered)
            self.answer(events + stream_comment(SIGNER.sign(receipt)) + b"data: [DONE]\n\n")

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_client(address: str, script: Path) -> subprocess.CompletedProcess[str]:
    program = PAGE.split("```python\n")[1].split("```")[0].replace("127.0.0.1:8080", address)
    script.write_text(program)
    return subprocess.run([sys.executable, script], capture_output=True, text=True)


def test_the_documented_client_accepts_a_genuine_receipt(tmp_path: Path) -> None:
    with gateway(EVENTS) as address:
        done = run_client(address, tmp_path / "client.py")

    assert (done.stdout, done.stderr) == (
        "the receipt is genuine and about this answer\n", "",
    )  # fmt: skip


def test_the_documented_client_notices_another_answer(tmp_path: Path) -> None:
    with gateway((EVENTS[0].replace(b"h", b"H"), EVENTS[1])) as address:
        done = run_client(address, tmp_path / "client.py")

    assert done.returncode == 1
    assert 'assert claims["answer"]["sha256"] == answer.hexdigest()' in done.stderr


@pytest.mark.parametrize(
    "fact", [f"`{HEADER}`", f"over {HEADER_BYTES_MAX} bytes", stream_comment("...").decode().strip()]
)
def test_the_page_names_header_limit_and_comment_as_they_are(fact: str) -> None:
    assert fact in PAGE
