"""Finds records: the beginning and the end of a request as one, in bounded memory.

A request is shown when its end is met; one whose end is not there, once nothing more is to come. Filters ask
the beginning first, so that only requests that may yet fit are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from gateway.audit.chain import time_text
from gateway.audit.reading import Line
from gateway.audit.records import Begin, End, Refused

OPEN_MAX: Final = 100_000  # requests under way at once that are waited for
UNFINISHED: Final = "unfinished"
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, by its records, or one record that is of no request. One of the two is there."""

    first: Line | None
    end: Line | None

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for line in (self.first, self.end) if line is not None)

    def field(self, name: str) -> Any:
        """A field of the beginning, else of the end; None where neither has it."""
        for line in self.lines:
            if (value := line.link.fields.get(name)) is not None:
                return value
        return None

    @property
    def time(self) -> str:
        return self.lines[0].link.time

    @property
    def kind(self) -> str:
        return self.lines[0].link.kind

    @property
    def of_request(self) -> bool:
        return self.kind in (Begin.kind, End.kind, Refused.kind)

    @property
    def outcome(self) -> str | None:
        """A receipt's word, `unfinished`, or None for a record of no request."""
        if self.end is not None:
            return str(self.end.link.fields.get("outcome"))
        return {Begin.kind: UNFINISHED, Refused.kind: REFUSED}.get(self.kind)

    @property
    def places(self) -> frozenset[str]:
        """Places that it was planned for, tried at, or (of a start) that it names."""
        tried = (one["place"] for one in (self.field("attempts") or ()))
        named = self.field("place")
        return frozenset([*(self.field("plan") or ()), *tried, *([named] if named else ())])

    @property
    def answered_at(self) -> str | None:
        for one in self.field("attempts") or ():
            if one["outcome"] == "answered":
                return str(one["place"])
        return None


@dataclass(frozen=True, slots=True)
class Filter:
    """What is looked for; None, or nothing, asks nothing. Times are as records have them; `until` is not
    in.
    """

    tenant: str | None = None
    request: str | None = None
    labels: frozenset[str] = frozenset()
    place: str | None = None
    outcome: str | None = None
    rule: str | None = None
    model: str | None = None
    kind: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def asks(self) -> bool:
        return self != Filter()

    def may_fit(self, first: Line) -> bool:
        """Whether a request that begins so can fit: all that its end does not tell."""
        told = first.link.fields
        return (
            self.times_fit(first.link.time)
            and (self.tenant is None or told.get("tenant") == self.tenant)
            and (self.request is None or told.get("request") == self.request)
            and self.labels <= frozenset(told.get("labels", ()))
            and (self.rule is None or self.rule in told.get("rules", ()))
            and (self.model is None or told.get("model") == self.model)
        )

    def fits(self, entry: Entry) -> bool:
        return (
            self.may_fit(entry.lines[0])
            and (self.place is None or self.place in entry.places)
            and (self.outcome is None or entry.outcome == self.outcome)
            and (self.kind is None or any(line.link.kind == self.kind for line in entry.lines))
        )

    def times_fit(self, moment: str) -> bool:
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


def entries(lines: Iterable[Line], wanted: Filter, open_max: int = OPEN_MAX) -> Iterator[Entry]:
    """Every entry that fits, in the order in which it is complete.

    An end whose beginning is in no file that was given stands alone. Of more than `open_max` requests that
    have no end yet the oldest is given up and shown as unfinished.
    """
    waiting: dict[tuple[str, str], Line] = {}
    from_sequence: dict[str, int] = {}
    for line in lines:
        kind, request = line.link.kind, line.link.fields.get("request")
        from_sequence.setdefault(line.link.replica, line.link.sequence)
        if kind == Begin.kind:
            if wanted.may_fit(line):
                waiting[line.link.replica, str(request)] = line
            if len(waiting) > open_max:
                yield from fitting(Entry(waiting.pop(next(iter(waiting))), None), wanted)
        elif kind == End.kind:
            began = waiting.pop((line.link.replica, str(request)), None)
            if began is not None:
                yield from fitting(Entry(began, line), wanted)
            elif line.link.fields.get("began", 0) < from_sequence[line.link.replica]:
                yield from fitting(Entry(None, line), wanted)
        else:
            yield from fitting(Entry(line, None), wanted)
    for began in waiting.values():
        yield from fitting(Entry(began, None), wanted)


def fitting(entry: Entry, wanted: Filter) -> Iterator[Entry]:
    if wanted.fits(entry):
        yield entry


def moment_of(text: str, *, end: bool = False) -> str:
    """A day or a time (UTC unless it says otherwise) as records write it; with `end`, of a day the next one's
    beginning. Raises ValueError."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return time_text(moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    return time_text(datetime.combine(day + timedelta(days=int(end)), time(), UTC))


def wire(entry: Entry) -> dict[str, Any]:
    """For JSON output: the records as they stand, by kind."""
    return {line.link.kind: record_of(line) for line in entry.lines}


def record_of(line: Line) -> Mapping[str, Any]:
    link = line.link
    return {
        "file": str(line.file),
        "line": line.number,
        "replica": link.replica,
        "seq": link.sequence,
        "time": link.time,
        "hash": link.hash,
        **link.fields,
    }
