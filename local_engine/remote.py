"""A running engine as a voice for the terminal: OpenAI's streaming chat completions over HTTP."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from local_engine.errors import Refused, RequestError, SetupError
from local_engine.terminal import Ended, Said

TIMEOUT_S = 600.0


class RemoteError(RequestError):
    """What the engine at the other end answered instead."""


@dataclass(frozen=True, slots=True)
class RemoteVoice:
    """`url` is the engine's base, with or without `/v1`; `secret` its bearer secret. Implements `Voice`."""

    url: str
    secret: str

    def answer(self, body: dict[str, Any]) -> Iterator[Said | Ended]:
        """See `terminal.Voice`. Closing it closes the connection, which stops the answer."""
        asked = body | {"stream": True, "stream_options": {"include_usage": True}}
        try:
            with self._asked("POST", "/chat/completions", json.dumps(asked).encode()) as response:
                tokens: int | None = None
                reason = "stop"
                for chunk in _events(response):
                    if "error" in chunk:
                        raise RemoteError(str(chunk["error"].get("message", "the answer broke off")))
                    usage = chunk.get("usage") or {}
                    tokens = usage.get("completion_tokens", tokens)
                    for choice in chunk.get("choices", []):
                        reason = choice.get("finish_reason") or reason
                        yield from _said(choice.get("delta", {}))
            yield Ended(reason, tokens)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RemoteError(f"`{self.url}` broke off: {type(error).__name__}") from None

    def model(self) -> str:
        """The first model it serves. Raises `SetupError` when it cannot be asked."""
        try:
            with self._asked("GET", "/models", None) as response:
                return str(json.load(response)["data"][0]["id"])
        except RequestError as error:
            advice = ": the secret must be the one that it was started with" if error.status == 401 else ""
            raise SetupError(f"`{self.url}` refuses: {error}{advice}") from None
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
            raise SetupError(
                f"no engine answers at `{self.url}` ({type(error).__name__}): check the url, and that it runs"
            ) from None

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise SetupError(f"`{self.url}` is no url of an engine: write it like `http://127.0.0.1:8081`")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)

    @contextmanager
    def _asked(self, method: str, path: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        """The response to a request, closed at the end. Raises `Refused` for any other status than 200."""
        base = urlsplit(self.url).path.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}
        with closing(self._connect()) as connection:
            connection.request(method, f"{base}/v1{path}", body=body, headers=headers)
            with connection.getresponse() as response:
                if response.status != 200:
                    raise Refused(f"{_message(response)} ({response.status})", status=response.status)
                yield response


def _message(response: http.client.HTTPResponse) -> str:
    try:
        return str(json.load(response)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason


def _said(delta: dict[str, Any]) -> Iterator[Said]:
    if thought := delta.get("reasoning") or delta.get("reasoning_content"):
        yield Said(thought, reasoning=True)
    if text := delta.get("content"):
        yield Said(text, reasoning=False)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The data of server-sent events up to `[DONE]`. Raises `ValueError` when the stream ends before it."""
    while line := response.readline():
        name, _, data = line.decode().strip().partition(":")
        if name != "data":
            continue
        if data.strip() == "[DONE]":
            return
        yield json.loads(data)
    raise ValueError("the stream ended early")
