"""The emulator of one region as an ASGI application.

The order of the checks is AWS's: signature first, then the operation, then the service model, then what
gpt-oss itself refuses, then the quota, then the answer, into which injected faults may cut.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NoReturn

import orjson
from pydantic import TypeAdapter, ValidationError

from gateway.testing.bedrock import answers, eventstream, quirks
from gateway.testing.bedrock.control_plane import ControlPlane, Question
from gateway.testing.bedrock.errors import NAMESPACE, AwsError
from gateway.testing.bedrock.faults import Fault, FaultQueue
from gateway.testing.bedrock.ledger import Control, Ledger, Received, digest
from gateway.testing.bedrock.model import Call, ServiceModel
from gateway.testing.bedrock.quota import TokenQuota
from gateway.testing.bedrock.signature import Keys, WireRequest, claimed, verify

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Scope = dict[str, Any]

CONTROL = "/_emulator/"
EVENT_STREAM = "application/vnd.amazon.eventstream"
TRANSPORT_EXTENSION = "douane.transport"
BODY_BYTES_MAX = 25 * 1024 * 1024


class ConnectionCut(Exception):
    """Ends the answer without its proper end; the server then closes the connection."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Emulator:
    """One emulated region: who may call, what it serves, what it received, which faults wait."""

    region: str
    keys: Keys = field(default_factory=Keys)
    ledger: Ledger = field(default_factory=Ledger)
    faults: FaultQueue = field(default_factory=FaultQueue)
    model: ServiceModel = field(default_factory=ServiceModel)
    control_plane: ControlPlane = field(default_factory=ControlPlane)
    quota: TokenQuota = field(default_factory=lambda: TokenQuota(None, time.monotonic))
    now: Callable[[], datetime] = utc_now
    token_delay_s: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point; only HTTP requests reach it."""
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        request = WireRequest(scope["method"], scope["raw_path"].decode("latin-1") + query, headers, body)
        if request.target.startswith(CONTROL):
            await self.control(scope, request, dated(send, self.now))
            return
        await self.serve(scope, request, send)

    async def serve(self, scope: Scope, request: WireRequest, send: Send) -> None:
        """Answers one Bedrock request and writes it into the ledger before the first byte of the answer."""
        offset = timedelta(seconds=self.faults.take_offset_s())
        now = self.now() + offset
        send = dated(send, lambda: self.now() + offset)
        request_id = str(uuid.uuid4())
        found = self.model.match(request.method, request.target)
        if found is None and (question := self.control_plane.match(request.method, request.target)):
            await self.tell(request, question, send, request_id, now)
            return
        fault: Fault | None = None
        try:
            call = self.admit(request, found, now)
            fault = self.faults.take(call.model_id)
            if fault and fault.kind == "error":
                raise fault.aws_error(self.model)
            reply = answers.compose(call, self.region)
            booking = self.quota.reserve(reply.input_tokens + answers.max_tokens(call))
        except AwsError as error:
            self.record(request, found, error.status, error.code, fault)
            await send_error(send, error, request_id)
            return
        self.record(request, found, 307 if fault and fault.kind == "redirect" else 200, None, fault)
        try:
            await self.answer(scope, call, reply, fault, send, request_id)
        finally:
            self.quota.settle(booking, reply.input_tokens + reply.output_tokens)

    async def tell(
        self, request: WireRequest, question: Question, send: Send, request_id: str, now: datetime
    ) -> None:
        """Answers one question about the account and writes it into the ledger."""
        asked = (question.operation, question.model_id)
        try:
            verify(request, self.keys, self.region, now)
            told = self.control_plane.answer(question, self.region, quirks.served_models(self.region))
        except AwsError as error:
            self.record(request, asked, error.status, error.code, None)
            await send_error(send, error, request_id)
            return
        self.record(request, asked, 200, None, None)
        await send_whole(send, 200, orjson.dumps(told), request_id)

    def admit(self, request: WireRequest, found: tuple[str, str] | None, now: datetime) -> Call:
        """The call, when everything about it is in order. Raises AwsError."""
        verify(request, self.keys, self.region, now)
        if found is None:
            raise AwsError("UnknownOperationException", 404, "")
        call = self.model.parse(*found, request.body)
        refusal = quirks.find_refusal(call, quirks.served_models(self.region))
        if refusal:
            raise refusal
        return call

    async def answer(
        self, scope: Scope, call: Call, reply: answers.Reply, fault: Fault | None, send: Send, request_id: str
    ) -> None:
        """Sends the answer, spoilt by the fault if there is one."""
        kind = fault.kind if fault else None
        if fault and kind == "redirect":
            await send_whole(send, 307, b"", request_id, location=fault.location)
            return
        if kind == "reset" and fault and fault.after_events == 0:
            abort(scope)
        if fault and kind in ("slow_first_token", "stall") and call.operation == "Converse":
            await asyncio.sleep(fault.delay_s)
        if fault and kind in ("garbage", "oversize"):
            garbage = b"\x00not an answer" if kind == "garbage" else b" " * fault.size_bytes
            await send_whole(send, 200, garbage, request_id)
            return
        if call.operation == "ConverseStream":
            await self.stream(scope, call, reply, fault, send, request_id)
            return
        whole = orjson.dumps(answers.converse_body(reply, call, latency_ms(reply)))
        if kind in ("cut", "reset", "truncated_frame", "bad_crc"):
            await send_start(send, 200, request_id, "application/json", length=len(whole))
            await send({"type": "http.response.body", "body": whole[: len(whole) // 2], "more_body": True})
            if kind == "reset":
                abort(scope)
            raise ConnectionCut
        await send_whole(send, 200, whole, request_id)

    async def stream(
        self, scope: Scope, call: Call, reply: answers.Reply, fault: Fault | None, send: Send, request_id: str
    ) -> None:
        await send_start(send, 200, request_id, EVENT_STREAM)
        if fault and fault.kind == "slow_first_token":
            await asyncio.sleep(fault.delay_s)
        for position, event in enumerate(self.frames(call, reply)):
            if fault and position == fault.after_events and await self.spoil(scope, fault, event, send):
                return
            if fault and fault.kind == "no_metadata" and event.metadata:
                break
            await send({"type": "http.response.body", "body": event.frame, "more_body": True})
            if self.token_delay_s:
                await asyncio.sleep(self.token_delay_s)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def frames(self, call: Call, reply: answers.Reply) -> Iterator[EncodedEvent]:
        for event_type, members in answers.converse_events(reply, call, latency_ms(reply)):
            yield EncodedEvent(eventstream.event(event_type, members), event_type == "metadata")

    async def spoil(self, scope: Scope, fault: Fault, event: EncodedEvent, send: Send) -> bool:
        """Applies a fault in the stream, after its delay; True when the answer ends with it."""
        await asyncio.sleep(fault.delay_s if fault.kind != "slow_first_token" else 0)
        match fault.kind:
            case "stream_error":
                error = fault.aws_error(self.model)
                member = self.model.stream_exceptions().get(error.code, error.code)
                frame = eventstream.exception(member, {"message": error.message, **error.fields})
                await send({"type": "http.response.body", "body": frame, "more_body": False})
                return True
            case "bad_crc":
                await send(
                    {
                        "type": "http.response.body",
                        "body": eventstream.corrupted(event.frame),
                        "more_body": True,
                    }
                )
                return False
            case "truncated_frame":
                half = event.frame[: len(event.frame) // 2]
                await send({"type": "http.response.body", "body": half, "more_body": False})
                return True
            case "cut":
                raise ConnectionCut
            case "reset":
                abort(scope)
        return False

    def record(
        self,
        request: WireRequest,
        found: tuple[str, str | None] | None,
        status: int,
        error: str | None,
        fault: Fault | None,
    ) -> None:
        operation, model_id = found or (None, None)
        claims = claimed(request.headers)
        self.ledger.add(
            Received(
                at=self.now().isoformat(),
                region=self.region,
                method=request.method,
                path=request.target,
                operation=operation,
                model_id=model_id,
                access_key=claims.access_key,
                signed_region=claims.region,
                body_bytes=len(request.body),
                body_sha256=digest(request.body),
                status=status,
                error=error,
                fault=fault.kind if fault else None,
            )
        )

    async def control(self, scope: Scope, request: WireRequest, send: Send) -> None:
        """`GET ledger`, `POST faults` (a JSON list), `DELETE faults`; only from this machine."""
        client = scope.get("client") or ("", 0)
        self.ledger.add(Control(at=self.now().isoformat(), region=self.region, path=request.target))
        if client[0] not in ("127.0.0.1", "::1"):
            await send_json(send, 403, {"error": "the emulator's own paths answer on loopback only"})
            return
        match request.method, request.target.removeprefix(CONTROL):
            case "GET", "ledger":
                await send_json(send, 200, {"region": self.region, "entries": self.ledger.wire()})
            case "POST", "faults":
                try:
                    wanted = TypeAdapter(list[Fault]).validate_json(request.body)
                except ValidationError as error:
                    places = sorted(
                        {".".join(str(part) for part in e["loc"]) for e in error.errors(include_input=False)}
                    )
                    await send_json(
                        send, 400, {"error": f"the list of faults is invalid at `{', '.join(places)}`"}
                    )
                    return
                self.faults.add(*wanted)
                await send_json(send, 200, {"added": len(wanted)})
            case "DELETE", "faults":
                self.faults.clear()
                await send_json(send, 200, {"cleared": True})
            case _:
                await send_json(send, 404, {"error": "use `GET ledger`, `POST faults` or `DELETE faults`"})


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    frame: bytes
    metadata: bool


def latency_ms(reply: answers.Reply) -> int:
    """A stand-in that depends on the reply only, so that equal requests have equal answers."""
    return 10 + reply.output_tokens


def abort(scope: Scope) -> NoReturn:
    """Drops the connection without a word; needs the server of `server.py`, which hands its transport on."""
    transport: asyncio.Transport = scope["extensions"][TRANSPORT_EXTENSION]["transport"]
    transport.abort()
    raise ConnectionCut


async def read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX or not message.get("more_body", False):
            break
    return b"".join(parts)


def dated(send: Send, now: Callable[[], datetime]) -> Send:
    """Gives each answer its `Date`, by the clock that signatures are held against."""

    async def with_date(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            date = format_datetime(now(), usegmt=True).encode()
            message = {**message, "headers": [(b"date", date), *message["headers"]]}
        await send(message)

    return with_date


async def send_start(
    send: Send, status: int, request_id: str, content_type: str, length: int | None = None, **headers: str
) -> None:
    fields = {
        "content-type": content_type,
        "x-amzn-requestid": request_id,
        "x-douane-emulated": "1",
        **({"content-length": str(length)} if length is not None else {}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        }
    )


async def send_whole(send: Send, status: int, body: bytes, request_id: str, **headers: str) -> None:
    await send_start(send, status, request_id, "application/json", len(body), **headers)
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_error(send: Send, error: AwsError, request_id: str) -> None:
    await send_whole(
        send, error.status, error.body(), request_id, x_amzn_errortype=f"{error.code}:{NAMESPACE}"
    )


async def send_json(send: Send, status: int, value: Any) -> None:
    await send_whole(send, status, orjson.dumps(value), "control")
