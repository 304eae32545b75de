"""The process's own log: one JSON object a line on stderr, made of names and numbers, never of content.

An exception is logged as its type and the code it passed through. Its text is left out: it may quote what a
caller sent (`KeyError: 'prompt text'`, pydantic's `input_value`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

FRAMES_MAX = 12


class ContentFreeFormatter(logging.Formatter):
    """Formats our own events with their fields; of anyone else's records, only where they come from."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name == "douane":
            entry["event"] = record.msg
            entry.update(getattr(record, "fields", {}))
        elif record.name.startswith("gateway."):  # the store's own words: addresses and error codes
            entry["event"] = record.getMessage()
        else:
            entry["event"] = "library"
            entry["source"] = f"{record.name}:{record.funcName}"
        if record.exc_info:
            entry["exception"] = describe(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


def describe(exc_info: Any) -> dict[str, Any]:
    """Type and frames of an exception and its causes; no text of it."""
    error: BaseException | None = exc_info[1]
    types: list[str] = []
    frames: list[str] = []
    while error is not None and len(types) < FRAMES_MAX:
        types.append(type(error).__qualname__)
        frames.extend(
            f"{frame.filename.rsplit('/', 3)[-1]}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
        )
        error = error.__cause__ or error.__context__
    return {"types": types, "frames": frames[:FRAMES_MAX]}


def configure_logs(level: str = "INFO") -> None:
    """Sends every logger of the process through `ContentFreeFormatter`; called once, by the command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ContentFreeFormatter())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel("WARNING")
    logging.getLogger("douane").setLevel(level)
    sys.excepthook = log_crash


def log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("douane").critical("crashed", exc_info=(kind, error, trace))


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Errors that nobody awaited: type and frames only, where asyncio would print the exception's text."""

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        exc_info = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
        logging.getLogger("douane").error("unhandled", exc_info=exc_info)

    loop.set_exception_handler(handle)


def event(
    name: str, /, level: int = logging.INFO, *, exc_info: bool | BaseException = False, **fields: Any
) -> None:
    """Logs one event of the process; `fields` hold ids, codes and numbers.

    Not of a request: what is said of one goes through `context.sinks.log`, which asks whether it may be.
    """
    logging.getLogger("douane").log(level, name, extra={"fields": fields}, exc_info=exc_info)
