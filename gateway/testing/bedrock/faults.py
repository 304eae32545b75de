"""Faults that a test asks the emulator for, and the queue that they wait in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.testing.bedrock.errors import AwsError
from gateway.testing.bedrock.model import ServiceModel

Kind = Literal[
    "error",  # an HTTP error with `code`
    "stream_error",  # after `after_events` events, an exception frame with `code`
    "cut",  # after `after_events` events the connection closes mid-answer
    "reset",  # the connection is reset, before the answer or after `after_events` events
    "truncated_frame",  # after `after_events` events half a frame, then a proper end of the body
    "bad_crc",  # after `after_events` events a frame whose checksum is wrong
    "no_metadata",  # the stream ends properly, but without its last event
    "slow_first_token",  # `delay_s` before the first byte of the answer's body
    "stall",  # after `after_events` events silence for `delay_s`, then the rest
    "redirect",  # 307 to `location`
    "garbage",  # 200 with a body that is no JSON or event stream
    "oversize",  # 200 with a body of `size_bytes`
    "wrong_time",  # this region's clock is off by `offset_s`: in what it checks and in `Date`
]

STATUS_OF_COMMON_ERRORS = {
    "UnrecognizedClientException": 403,
    "InvalidSignatureException": 403,
    "RequestExpired": 403,
    "RequestTimeTooSkewed": 403,
    "RequestTimeTooSkewedException": 403,
    "ExpiredTokenException": 403,
    "MissingAuthenticationTokenException": 403,
    "IncompleteSignatureException": 403,
    "UnknownOperationException": 404,
    "SerializationException": 400,
    "RequestEntityTooLargeException": 413,
}


class Fault(BaseModel):
    """One fault for the next `times` calls (None: until the faults are cleared)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    code: str | None = None
    message: str = "Injected by the emulator."
    after_events: int = Field(default=0, ge=0)
    delay_s: float = Field(default=0.0, ge=0)
    location: str = "https://bedrock-runtime.us-east-1.amazonaws.com/"
    size_bytes: int = Field(default=0, ge=0)
    offset_s: float = 600.0
    times: int | None = Field(default=1, ge=1)
    model_id: str | None = None

    def aws_error(self, model: ServiceModel) -> AwsError:
        """The error to answer with; its extra members are those of the service model's shape."""
        code = self.code or "InternalServerException"
        statuses = {**STATUS_OF_COMMON_ERRORS, **model.error_shapes()}
        fields: dict[str, Any] = {}
        if code in model.error_shapes():
            known = {"originalStatusCode": 500, "resourceName": "emulated", "originalMessage": self.message}
            fields = {name: known[name] for name in sorted(model.error_members(code)) if name in known}
        return AwsError(code, statuses.get(code, 500), self.message, **fields)


class FaultQueue:
    """Faults wait in order; each call takes the first that fits its model."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._waiting: list[tuple[Fault, int | None]] = [(fault, fault.times) for fault in faults]

    def add(self, *faults: Fault) -> None:
        self._waiting += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, model_id: str) -> Fault | None:
        return self._take(lambda fault: fault.kind != "wrong_time" and fault.model_id in (None, model_id))

    def take_offset_s(self) -> float:
        """How far the clock is off for this call, whichever model it is for."""
        fault = self._take(lambda fault: fault.kind == "wrong_time")
        return fault.offset_s if fault is not None else 0.0

    def _take(self, fits: Callable[[Fault], bool]) -> Fault | None:
        for position, (fault, left) in enumerate(self._waiting):
            if not fits(fault):
                continue
            if left == 1:
                del self._waiting[position]
            elif left is not None:
                self._waiting[position] = (fault, left - 1)
            return fault
        return None
