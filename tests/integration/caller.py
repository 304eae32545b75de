"""A caller of the gateway that keeps what it sent and got, byte for byte, and can check its receipt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.opening import RECEIPT_KEY
from gateway.receipts.delivery import find_receipt
from gateway.receipts.keys import load_signing_key
from gateway.receipts.receipt import Receipt
from gateway.receipts.verify import answer_matches, request_matches, verify_receipt

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Said:
    """One exchange. `sent` and `body` are the bytes on the wire, of a stream its whole transcript."""

    status: int
    headers: Mapping[str, str]
    sent: bytes
    body: bytes
    state_dir: Path

    @property
    def streamed(self) -> bool:
        return self.headers["content-type"].startswith("text/event-stream")

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        error: dict[str, Any] = self.json()["error"]
        return error

    @property
    def code(self) -> str:
        return str(self.error["code"])

    @property
    def place(self) -> str | None:
        return self.headers.get("x-douane-backend")

    @property
    def cache(self) -> str:
        return self.headers["x-douane-cache"]

    def events(self) -> Iterator[dict[str, Any]]:
        """The JSON events of a stream."""
        for line in self.body.splitlines():
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield json.loads(line[6:])

    @property
    def text(self) -> str:
        """What the model said, plain or streamed."""
        if not self.streamed:
            return self.json()["choices"][0]["message"]["content"] or ""
        deltas = [choice["delta"] for event in self.events() for choice in event.get("choices", ())]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def jws(self) -> str:
        return find_receipt(self.body) if self.streamed else self.headers["x-douane-receipt"]

    def receipt(self) -> Receipt:
        """The receipt, verified offline with the pinned key; its digests fit what was sent and received."""
        public = load_signing_key(self.state_dir / RECEIPT_KEY).public
        receipt = verify_receipt(self.jws, {public.thumbprint: public}).receipt
        assert request_matches(receipt, self.sent)
        assert answer_matches(receipt, self.body)
        return receipt


@dataclass(frozen=True, slots=True)
class Caller:
    """Sends requests with one API key."""

    http: httpx.Client
    key: str | None
    state_dir: Path

    def ask(
        self,
        text: str = "hello",
        *,
        labels: str | None = None,
        headers: Mapping[str, str] | None = None,
        messages: list[dict[str, Any]] | None = None,
        model: str = "gpt-oss-20b",
        **fields: Any,
    ) -> Said:
        """A chat request; `fields` are further ones of its body."""
        said = {"role": "user", "content": text}
        body = {"model": model, "messages": messages or [said], **fields}
        given = {"x-douane-labels": labels} if labels is not None else {}
        return self.post(json.dumps(body).encode(), {**given, **(headers or {})})

    def post(self, body: bytes, headers: Mapping[str, str] | None = None, path: str = CHAT) -> Said:
        sent = {"content-type": "application/json"}
        if self.key is not None:
            sent["authorization"] = f"Bearer {self.key}"
        response = self.http.post(path, content=body, headers={**sent, **(headers or {})})
        return Said(response.status_code, response.headers, body, response.content, self.state_dir)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path, headers={"authorization": f"Bearer {self.key}"} if self.key else {})
