"""The terminal talks to a running engine over HTTP, and says what is wrong when it cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from local_engine.errors import Refused, SetupError
from local_engine.remote import RemoteError, RemoteVoice
from local_engine.terminal import Ended, Said

SECRET = "s3cret"
BODY = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "Hi"}]}


class Answering:
    """A server that answers every POST with `stream` and remembers what it was asked."""

    def __init__(self, stream: bytes, status: int = 200) -> None:
        self.stream = stream
        self.status = status
        self.asked: list[tuple[str, str | None, Any]] = []
        self.url = ""


@contextmanager
def answering(answer: Answering) -> Iterator[Answering]:
    """Serves it on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(answer.status, b'{"data": [{"id": "gpt-oss-20b"}]}', None)

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self._reply(answer.status, answer.stream, json.loads(self.rfile.read(length)))

        def _reply(self, status: int, data: bytes, asked: Any) -> None:
            answer.asked.append((self.path, self.headers["Authorization"], asked))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    answer.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield answer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def events(*data: object) -> bytes:
    """Server-sent events."""
    return b"".join(b"data: %s\n\n" % json.dumps(item).encode() for item in data)


def delta(finish: str | None = None, **fields: str) -> dict[str, Any]:
    """One chunk."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_an_answer_streams_in_pieces_with_its_token_count(suffix: str) -> None:
    stream = events(
        delta(role="assistant", content=""),
        delta(reasoning="hm"),
        delta(content="Hel"),
        delta(content="lo"),
        delta("length"),
        {"choices": [], "usage": {"completion_tokens": 7}},
    )
    with answering(Answering(b": keep alive\n\n" + stream + b"data: [DONE]\n\n")) as engine:
        pieces = list(RemoteVoice(engine.url + suffix, SECRET).answer(BODY))

    assert pieces == [
        Said("hm", reasoning=True),
        Said("Hel", reasoning=False),
        Said("lo", reasoning=False),
        Ended("length", 7),
    ]
    assert engine.asked == [
        (
            "/v1/chat/completions",
            "Bearer s3cret",
            BODY | {"stream": True, "stream_options": {"include_usage": True}},
        )
    ]


def test_the_served_model_is_asked_for_under_the_path_of_the_url() -> None:
    with answering(Answering(b"")) as engine:
        assert RemoteVoice(f"{engine.url}/behind", SECRET).model() == "gpt-oss-20b"

    assert engine.asked == [("/behind/v1/models", "Bearer s3cret", None)]


def test_a_refusal_is_passed_on_with_its_status() -> None:
    refusal = json.dumps({"error": {"message": "the engine is full: retry in 3 s"}}).encode()
    with answering(Answering(refusal, 429)) as engine, pytest.raises(Refused) as refused:
        list(RemoteVoice(engine.url, SECRET).answer(BODY))
    with answering(Answering(b"", 401)) as engine, pytest.raises(SetupError) as closed:
        RemoteVoice(engine.url, SECRET).model()

    assert (str(refused.value), refused.value.status) == ("the engine is full: retry in 3 s (429)", 429)
    assert str(closed.value) == (
        f"`{engine.url}` refuses: Unauthorized (401): the secret must be the one that it was started with"
    )


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (events(delta(content="a"), {"error": {"message": "the engine failed"}}), "the engine failed"),
        (events(delta(content="a")), "broke off: ValueError"),
        (b"data: {not json\n\n", "broke off: JSONDecodeError"),
    ],
    ids=["told", "cut", "garbled"],
)
def test_an_answer_that_breaks_off_is_an_error(stream: bytes, message: str) -> None:
    with answering(Answering(stream)) as engine, pytest.raises(RemoteError) as broken:
        list(RemoteVoice(engine.url, SECRET).answer(BODY))

    assert message in str(broken.value)


def test_an_engine_that_is_not_there_is_told_with_its_url() -> None:
    voice = RemoteVoice("http://127.0.0.1:1", SECRET)

    with pytest.raises(SetupError, match=r"no engine answers at `http://127\.0\.0\.1:1` \(ConnectionRefused"):
        voice.model()
    with pytest.raises(RemoteError, match="broke off: ConnectionRefusedError"):
        list(voice.answer(BODY))


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "ftp://x", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="is no url of an engine: write it like"):
        RemoteVoice(url, SECRET).model()
