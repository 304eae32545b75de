"""What was done to a chain, from its lines alone. Pure.

Each line is first given the number of the record that it is, or was: an intact line says it itself; an edited
one is known by the hash that its neighbours name; a line that is no record any more, by where it stands. For
each number one line is the genuine one (the one that its neighbours are chained to), the others were put in.
What then is missing was dropped, and what stands out of order was moved.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gateway.audit.base import Sealed
from gateway.audit.chain import GENESIS, Link


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a chain: what the walk needs of its record, or why it is none (`reason`)."""

    file: str
    line: int  # from 1
    reason: str = ""
    replica: str = ""
    sequence: int = 0
    previous: str = ""
    hash: str = ""
    intact: bool = False

    @classmethod
    def of(cls, file: str, line: int, link: Link) -> Row:
        return cls(file, line, "", link.replica, link.sequence, link.previous, link.hash, link.intact)

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something at one line of one file. `code` is one of the words in `docs/audit.md`."""

    file: str
    line: int
    code: str
    message: str


def find_alterations(rows: Sequence[Row], start: Sealed = GENESIS) -> tuple[Finding, ...]:
    """Every alteration of one replica's chain, in the order of its lines.

    `rows` are all its lines in the order in which they stand; `start` is the record before the first, where
    earlier ones were dropped on purpose. Empty for an intact chain.
    """
    replica = own_replica(rows)
    numbers = _numbers(rows, replica, start)
    genuine, surplus = _choose(rows, numbers)
    moved = _moved(genuine, rows)
    strays = [number for number in moved if _is_stray(number, genuine, rows)]
    for number in strays:
        surplus[genuine.pop(number)] = number
        moved.discard(number)
    found = [
        *_foreign(rows, numbers, surplus, replica),
        *_surplus(rows, genuine, surplus),
        *_edited(rows, genuine),
        *_relinked(rows, genuine, start),
        *_reordered(rows, genuine, moved),
        *_dropped(rows, genuine, start),
    ]
    standing = {(row.file, row.line): index for index, row in enumerate(rows)}
    return tuple(sorted(found, key=lambda finding: standing[finding.file, finding.line]))


def own_replica(rows: Iterable[Row]) -> str:
    """The replica that most intact lines are of; empty when no line is intact."""
    counted = Counter(row.replica for row in rows if row.intact)
    return counted.most_common(1)[0][0] if counted else ""


def _numbers(rows: Sequence[Row], replica: str, start: Sealed) -> dict[int, int]:
    """Row index -> number of the record that the line is or was; without the lines that have none."""
    by_hash = {row.hash: row.sequence for row in rows if row.intact and row.replica == replica}
    by_previous = {row.previous: row.sequence for row in rows if row.intact and row.replica == replica}
    numbers: dict[int, int] = {}
    for index, row in enumerate(rows):
        if row.intact and row.replica == replica:
            numbers[index] = row.sequence
        elif row.sequence and not row.intact:
            if row.hash in by_previous:
                numbers[index] = by_previous[row.hash] - 1
            elif row.previous in by_hash or row.previous == start.hash:
                numbers[index] = by_hash.get(row.previous, start.sequence) + 1
            else:
                numbers[index] = row.sequence
    taken = set(numbers.values())
    for index, row in enumerate(rows):
        if row.reason:
            number = numbers.get(index - 1, start.sequence if index == 0 else -1) + 1
            if number > 0 and number not in taken:
                numbers[index] = number
                taken.add(number)
    return numbers


def _choose(rows: Sequence[Row], numbers: Mapping[int, int]) -> tuple[dict[int, int], dict[int, int]]:
    """Number -> index of the genuine line, in the order of numbers; index -> number of every other line."""
    candidates: dict[int, list[int]] = {}
    for index, number in numbers.items():
        candidates.setdefault(number, []).append(index)
    genuine: dict[int, int] = {}
    surplus: dict[int, int] = {}
    for number in sorted(candidates):
        indexes = candidates[number]
        if len(indexes) > 1:
            ranks = {index: _rank(index, number, rows, numbers, candidates) for index in indexes}
            indexes.sort(key=lambda index: ranks[index], reverse=True)
        genuine[number] = indexes[0]
        surplus.update(dict.fromkeys(indexes[1:], number))
    return genuine, surplus


def _rank(
    index: int,
    number: int,
    rows: Sequence[Row],
    numbers: Mapping[int, int],
    candidates: Mapping[int, Sequence[int]],
) -> tuple[int, int, int]:
    """How well a line fits as record `number`; the highest is the genuine one."""
    row = rows[index]
    named = any(rows[after].previous == row.hash for after in candidates.get(number + 1, ()))
    known = any(rows[before].hash == row.previous for before in candidates.get(number - 1, ()))
    # Copies of one record are told apart by where they stand: the copy stands among strangers.
    neighbours = (numbers.get(index - 1) == number - 1) + (numbers.get(index + 1) == number + 1)
    return 2 * named + known + row.intact, neighbours, -index


def _moved(genuine: Mapping[int, int], rows: Sequence[Row]) -> set[int]:
    """The fewest records that, put elsewhere, bring all into order (the others are a longest rising run)."""
    if all(first < second for first, second in pairwise(genuine.values())):
        return set()
    ends: list[int] = []  # line index that ends the best run of each length
    best: list[int] = []  # the number that stands there
    parent: dict[int, int | None] = {}
    for number, index in genuine.items():
        length = bisect_left(ends, index)
        parent[number] = best[length - 1] if length else None
        if length == len(ends):
            ends.append(index)
            best.append(number)
        else:
            ends[length], best[length] = index, number
    in_order: set[int] = set()
    at: int | None = best[-1]
    while at is not None:
        in_order.add(at)
        at = parent[at]
    return set(genuine) - in_order


def _is_stray(number: int, genuine: Mapping[int, int], rows: Sequence[Row]) -> bool:
    """Whether nothing in the chain is linked to the record, before or after it."""
    row = rows[genuine[number]]
    before, after = genuine.get(number - 1), genuine.get(number + 1)
    return not (
        (before is not None and rows[before].hash == row.previous)
        or (after is not None and rows[after].previous == row.hash)
    )


def _foreign(
    rows: Sequence[Row], numbers: Mapping[int, int], surplus: Mapping[int, int], replica: str
) -> Iterator[Finding]:
    for index, row in enumerate(rows):
        if index in numbers or index in surplus:
            continue
        why = row.reason or f"it is a record of replica `{row.replica}`, and this chain is of `{replica}`"
        yield _finding(row, "inserted", f"the line does not belong into this chain: {why}")


def _surplus(
    rows: Sequence[Row], genuine: Mapping[int, int], surplus: Mapping[int, int]
) -> Iterator[Finding]:
    for index, number in surplus.items():
        row = rows[index]
        other = rows[genuine[number]] if number in genuine else None
        if other is None:
            text = f"record {number} stands where it cannot, and no record is chained to it"
            yield _finding(row, "inserted", text)
        elif (other.hash, other.previous, other.intact) == (row.hash, row.previous, row.intact):
            yield _finding(row, "duplicated", f"record {number} stands at {other.place} already")
        else:
            text = f"a second record {number}: the chain goes through the one at {other.place}"
            yield _finding(row, "inserted", text)


def _edited(rows: Sequence[Row], genuine: Mapping[int, int]) -> Iterator[Finding]:
    for number, index in genuine.items():
        row = rows[index]
        if row.reason:
            yield _finding(row, "edited", f"record {number} stood here, and the line is none: {row.reason}")
        elif not row.intact:
            yield _finding(row, "edited", f"record {number} was changed: its content does not fit its hash")


def _relinked(rows: Sequence[Row], genuine: Mapping[int, int], start: Sealed) -> Iterator[Finding]:
    """Records that are intact in themselves, but not those that their neighbours are chained to."""

    def broken(number: int) -> bool:
        """Whether the step from record `number` to the next one does not hold."""
        after = genuine.get(number + 1)
        if after is None or (number not in genuine and number != start.sequence):
            return False
        if not rows[after].intact:
            return False
        if number == start.sequence:
            return rows[after].previous != start.hash
        before = rows[genuine[number]]
        return before.intact and rows[after].previous != before.hash

    blamed = -1
    for number in (start.sequence, *genuine):
        if not broken(number) or number == blamed:
            continue
        # A record whose `prev` and hash were both made anew breaks the steps on both of its sides.
        culprit = number + 1 if number == start.sequence or broken(number + 1) else number
        blamed = culprit
        neighbour = rows[genuine[number + 1 if culprit == number else culprit]]
        text = f"record {culprit} was changed and hashed anew: "
        if culprit == number:
            text += f"record {number + 1} at {neighbour.place} is chained to what it was before"
        else:
            text += f"it is not chained to record {number}"
        yield _finding(rows[genuine[culprit]], "edited", text)


def _reordered(rows: Sequence[Row], genuine: Mapping[int, int], moved: Iterable[int]) -> Iterator[Finding]:
    for number in moved:
        yield _finding(
            rows[genuine[number]], "reordered", f"record {number} was moved: it stands out of order"
        )


def _dropped(rows: Sequence[Row], genuine: Mapping[int, int], start: Sealed) -> Iterator[Finding]:
    for number, following in pairwise((start.sequence, *genuine)):
        if following == number + 1:
            continue
        first, last = number + 1, following - 1
        which = f"record {first} is" if first == last else f"records {first} to {last} are"
        yield _finding(rows[genuine[following]], "dropped", f"{which} missing before this line")


def _finding(row: Row, code: str, message: str) -> Finding:
    return Finding(row.file, row.line, code, message)
