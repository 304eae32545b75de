"""Records as Parquet: one row a record, flat columns of fixed types, the line itself in the last one.

The only module that needs pyarrow, which the extra `parquet` brings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from gateway.audit.chain import Link
from gateway.audit.export import NotExported, draft_of
from gateway.audit.reading import Line
from gateway.audit.records import Refused

ROWS_OF_A_GROUP: Final = 10_000
NO_PYARROW: Final = (
    "Parquet needs pyarrow, which is not installed: install `douane[parquet]`, or export with `--form jsonl`"
)


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is `text`, `texts`, `count`, `flag` or `time`; `value` finds it in a record, None: not there."""

    name: str
    type: str
    value: Callable[[Link], Any]


def field(name: str) -> Callable[[Link], Any]:
    return lambda link: link.fields.get(name)


def used(name: str) -> Callable[[Link], Any]:
    return lambda link: (link.fields.get("usage") or {}).get(name)


def tried(name: str) -> Callable[[Link], Any]:
    """The same member of every try, in the order of trying; None for records that have no tries."""

    def values(link: Link) -> list[str] | None:
        attempts = link.fields.get("attempts")
        return None if attempts is None else [str(one.get(name)) for one in attempts]

    return values


def answered_at(link: Link) -> str | None:
    attempts = link.fields.get("attempts") or ()
    return next((one["place"] for one in attempts if one["outcome"] == "answered"), None)


def rows_of(name: str) -> Callable[[Link], Any]:
    return lambda link: (link.fields.get("considered") or {}).get(name)


def outcome(link: Link) -> Any:
    return "refused" if link.kind == Refused.kind else link.fields.get("outcome")


COLUMNS: Final = (
    Column("time", "time", lambda link: datetime.fromisoformat(link.time)),
    Column("replica", "text", lambda link: link.replica),
    Column("seq", "count", lambda link: link.sequence),
    Column("kind", "text", lambda link: link.kind),
    *(Column(name, "text", field(name)) for name in ("request", "tenant", "key", "zone", "purpose", "model")),
    *(Column(name, "texts", field(name)) for name in ("labels", "detected")),
    Column("revision", "text", field("revision")),
    Column("serial", "count", field("serial")),
    Column("rules", "texts", field("rules")),
    Column("permitted", "text", field("permitted")),
    Column("plan", "texts", field("plan")),
    Column("route", "text", rows_of("route")),
    *(Column(name, "texts", rows_of(name)) for name in ("allowed", "denied", "skipped", "saw")),
    Column("stream", "flag", field("stream")),
    Column("began", "count", field("began")),
    Column("outcome", "text", outcome),
    Column("status", "count", field("status")),
    Column("code", "text", field("code")),
    Column("cache", "text", field("cache")),
    Column("answered_at", "text", answered_at),
    Column("tried_places", "texts", tried("place")),
    Column("tried_kinds", "texts", tried("kind")),
    Column("tried_outcomes", "texts", tried("outcome")),
    *(
        Column(name, "count", used(name))
        for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
    ),
    Column("cost_usd_nano", "count", field("cost_usd_nano")),
    *(
        Column(name, "text", field(name))
        for name in ("receipt", "request_hmac", "answer_hmac", "end_user_hmac", "place", "reason", "version")
    ),
    Column("prev", "text", lambda link: link.previous),
    Column("hash", "text", lambda link: link.hash),
)
LINE: Final = "line"  # the record's own line, from which its hash can be worked out again


def write_parquet(lines: Iterable[Line], path: Path, group_rows: int = ROWS_OF_A_GROUP) -> int:
    """A row for each record, in groups of rows so that memory stays bounded; returns how many.

    Raises NotExported, also where pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise NotExported(NO_PYARROW) from None
    types: Mapping[str, Any] = {
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "count": pyarrow.int64(),
        "flag": pyarrow.bool_(),
        "time": pyarrow.timestamp("us", tz="UTC"),
    }
    schema = pyarrow.schema([*((one.name, types[one.type]) for one in COLUMNS), (LINE, types["text"])])
    count = 0
    with draft_of(path) as file, pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        rest = iter(lines)
        while group := list(islice(rest, group_rows)):
            columns = [[one.value(line.link) for line in group] for one in COLUMNS]
            text = [line.raw.decode() for line in group]
            writer.write_table(pyarrow.table([*columns, text], schema=schema))
            count += len(group)
    return count
