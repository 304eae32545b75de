"""Decodes AWS's binary event stream into events, with botocore's own buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from botocore.eventstream import EventStreamBuffer, ParserError


class MalformedStream(Exception):
    """Bytes that are no event stream: a wrong checksum, an impossible length, no JSON."""


class StreamException(Exception):
    """An exception frame inside the stream; `code` is its name, such as `throttlingException`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class EventStreamDecoder:
    """Feed it what the network read; it gives the whole events in order."""

    def __init__(self) -> None:
        self._buffer = EventStreamBuffer()
        self._fed_bytes = 0
        self._decoded_bytes = 0

    @property
    def between_events(self) -> bool:
        """Whether everything that was fed has been decoded: False in the middle of a frame."""
        return self._fed_bytes == self._decoded_bytes

    def feed(self, data: bytes) -> Iterator[tuple[str, Any]]:
        """Yields (event type, members). Raises MalformedStream, or StreamException at an exception frame."""
        self._buffer.add_data(data)
        self._fed_bytes += len(data)
        try:
            for message in self._buffer:
                self._decoded_bytes += message.prelude.total_length
                yield event_of(message)
        except (ParserError, orjson.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise MalformedStream(type(error).__name__) from None


def event_of(message: Any) -> tuple[str, Any]:
    headers = message.headers
    match headers[":message-type"]:
        case "event":
            return headers[":event-type"], orjson.loads(message.payload or b"{}")
        case "exception":
            raise StreamException(headers[":exception-type"])
        case _:
            # A frame of type `error` is how AWS reports what its model of exceptions does not know.
            raise StreamException(headers.get(":error-code", "unknown"))
