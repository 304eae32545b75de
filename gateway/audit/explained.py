"""What the audit says about one request: every candidate place, what decided, what the plan saw. Pure.

Works on records alone. A bundle of the same revision adds what the records only name: the legal basis of a
rule and where it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from gateway.audit.chain import Link
from gateway.audit.reading import Line
from gateway.audit.records import Begin, End, Refused
from gateway.policy.bundle import Bundle

INFER: Final = "infer"


@dataclass(frozen=True, slots=True)
class Judged:
    """One action at one place, and the rule that decided. The rest is known only with the bundle."""

    action: str
    place: str
    allowed: bool
    rule: str
    basis: str | None = None
    file: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """One call: why it was made and how it ended."""

    kind: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place where a model could have answered.

    `order` is its number in the plan, from 1; None: not planned, and `skipped` says why (a word of the
    plan's, or `not_on_route`; empty for a place that is denied, or where nothing was planned). `cannot` are
    the parameters that it cannot honour. `saw` are the numbers that the plan saw.
    """

    judged: Judged
    order: int | None
    skipped: str
    cannot: tuple[str, ...]
    saw: Mapping[str, int]
    tried: tuple[Try, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is recorded of a request. `complete` is False for records from before places were recorded."""

    request: str
    record: str  # file and line of its first record
    replica: str
    sequence: int
    hash: str
    time: str
    ended: str | None
    tenant: str | None
    zone: str | None
    purpose: str | None
    model: str | None
    labels: tuple[str, ...]
    detected: tuple[str, ...]
    revision: str | None
    serial: int | None
    rules: tuple[str, ...]
    outcome: str
    status: int | None
    code: str | None
    cache: str | None
    receipt: str | None
    route: str | None
    candidates: tuple[Candidate, ...]
    needs: tuple[Judged, ...]
    complete: bool

    @property
    def answered_at(self) -> str | None:
        for one in self.candidates:
            if any(tried.outcome == "answered" for tried in one.tried):
                return one.judged.place
        return None

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        document = asdict(self)
        document["candidates"] = [
            {**entry.pop("judged"), **entry, "saw": dict(one.saw)}
            for one, entry in zip(self.candidates, document["candidates"], strict=True)
        ]
        return {**document, "answered_at": self.answered_at}


@dataclass(slots=True)
class Recorded:
    """The records of one request, as they are found."""

    first: Line | None = None
    end: Line | None = None

    def take(self, line: Line) -> None:
        if line.link.kind in (Begin.kind, Refused.kind):
            self.first = line
        elif line.link.kind == End.kind:
            self.end = line


def explain(recorded: Recorded, bundle: Bundle | None = None) -> Explanation:
    """The explanation; `bundle` must be of the record's own revision. Needs one record at least."""
    first = recorded.first or recorded.end
    assert first is not None
    link, ending = first.link, (recorded.end or first).link
    told = link.fields
    considered = told.get("considered")
    judged = tuple(judgements(considered, rules_of(bundle))) if considered is not None else ()
    began = link.kind != Refused.kind
    unfinished = began and recorded.end is None
    return Explanation(
        request=str(told["request"]),
        record=first.place,
        replica=link.replica,
        sequence=link.sequence,
        hash=link.hash,
        time=link.time,
        ended=None if unfinished else ending.time,
        tenant=told.get("tenant"),
        zone=told.get("zone"),
        purpose=told.get("purpose"),
        model=told.get("model"),
        labels=tuple(told.get("labels", ())),
        detected=tuple(told.get("detected", ())),
        revision=told.get("revision"),
        serial=told.get("serial"),
        rules=tuple(told.get("rules", ())),
        outcome=outcome_of(began, unfinished, ending),
        status=None if unfinished else ending.fields.get("status"),
        code=None if unfinished else ending.fields.get("code"),
        cache=ending.fields.get("cache"),
        receipt=ending.fields.get("receipt"),
        route=considered["route"] if considered is not None else None,
        candidates=tuple(candidates(judged, told, ending)) if considered is not None else (),
        needs=tuple(one for one in judged if one.action != INFER),
        complete=considered is not None,
    )


def outcome_of(began: bool, unfinished: bool, ending: Link) -> str:
    if unfinished:
        return "unfinished"
    return str(ending.fields.get("outcome", "")) if began else "refused"


@dataclass(frozen=True, slots=True)
class Written:
    """Where a rule is written, and on what basis."""

    basis: str | None
    file: str
    line: int


def rules_of(bundle: Bundle | None) -> Mapping[str, Written]:
    if bundle is None:
        return {}
    return {rule.id: Written(rule.basis, rule.file, rule.line) for rule in bundle.rules}


def judgements(considered: Mapping[str, Any], written: Mapping[str, Written]) -> Iterator[Judged]:
    for allowed, rows in ((True, considered["allowed"]), (False, considered["denied"])):
        for row in rows:
            rule, action, *places = row.split(" ")
            found = written.get(rule)
            for place in places:
                if found is None:
                    yield Judged(action, place, allowed, rule)
                else:
                    yield Judged(action, place, allowed, rule, found.basis, found.file, found.line)


def candidates(judged: Sequence[Judged], told: Mapping[str, Any], ending: Link) -> list[Candidate]:
    """The planned first, in their order; then the other permitted ones; then the denied."""
    considered = told["considered"]
    plan = list(told.get("plan", ()))  # a refusal has none
    skipped = {place: (reason, tuple(names)) for place, reason, *names in split(considered["skipped"])}
    saw = {place: dict(numbers(words)) for place, *words in split(considered["saw"])}
    tried: dict[str, list[Try]] = {}
    for one in ending.fields.get("attempts", ()):
        tried.setdefault(one["place"], []).append(Try(one["kind"], one["outcome"]))
    found = []
    for one in judged:
        if one.action != INFER:
            continue
        order = plan.index(one.place) + 1 if one.place in plan else None
        reason, names = skipped.get(one.place, ("", ()))
        if not reason and one.allowed and order is None and considered["route"] is not None:
            reason = "not_on_route"
        found.append(
            Candidate(one, order, reason, names, saw.get(one.place, {}), tuple(tried.get(one.place, ())))
        )
    last = len(found)
    return sorted(found, key=lambda one: (not one.judged.allowed, one.order or last + 1, not one.saw))


def split(rows: Sequence[str]) -> list[list[str]]:
    return [row.split(" ") for row in rows]


def numbers(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    for word in words:
        name, _, value = word.partition("=")
        yield name, int(value)
