"""A receiver of OTLP over HTTP: keeps what it was sent, decoded, and answers as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came over the wire; ids in hex."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass(slots=True)
class Collector:
    """`statuses` are the next answers, 200 when there is none left; while `held` is set it answers nobody."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)
    came: threading.Condition = field(default_factory=threading.Condition)

    def spans(self) -> list[Span]:
        """Every span of every message that was taken."""
        return [span for body in self.bodies for span in decoded(body)]


def decoded(body: bytes) -> Iterator[Span]:
    message = ExportTraceServiceRequest.FromString(body)
    for of_resource in message.resource_spans:
        resource = {one.key: value_of(one.value) for one in of_resource.resource.attributes}
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == 2,
                    {one.key: value_of(one.value) for one in span.attributes},
                    resource,
                )


@contextmanager
def running_collector() -> Iterator[Collector]:
    """A collector on loopback."""
    collector = Collector()
    collector.answering.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.answering.wait(60)
            status = collector.statuses.pop(0) if collector.statuses else 200
            with collector.came:
                collector.paths.append(self.path)
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                if status == 200:
                    collector.bodies.append(body)
                collector.came.notify_all()
            self.send_response(status)
            self.send_header("content-length", "0")
            if status in (301, 307, 308):
                self.send_header("location", f"{collector.url}/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield collector
    finally:
        collector.answering.set()
        server.shutdown()
        thread.join()
        server.server_close()
