"""What somebody may do to the audit's files, and what each check finds: `python -m tests.audit.tamper_matrix`
writes the table into docs/audit.md."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.audit.anchors import Anchor
from gateway.audit.verify import verify_files
from gateway.receipts.signer import ReceiptSigner
from tests.receipts.samples import PINNED, SIGNER, key

from .signed import Records, aged, files_of, read, relinked, two_replicas, write

PAGE: Final = Path(__file__).parents[2] / "docs" / "audit.md"
STRANGER: Final = ReceiptSigner(key(2))
BEGIN: Final = "<!-- the table is made by `python -m tests.audit.tamper_matrix` -->\n"
END: Final = "<!-- end of the table -->\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """`do` is given the live file of one chain of two. `who`: what it takes beside the files."""

    name: str
    do: Callable[[Path], None]
    who: str = "files"
    old: bool = False  # on a chain whose first files were dropped by retention


@dataclass(frozen=True, slots=True)
class Outcome:
    """The codes that each check gives, in the order in which they are first met; empty: not found."""

    alone: tuple[str, ...]
    with_key: tuple[str, ...]
    with_anchor: tuple[str, ...]


def changed(change: Callable[[Records], Records]) -> Callable[[Path], None]:
    return lambda live: write(live, change(read(live)))


def edit(records: Records, index: int) -> Records:
    return [*records[:index], {**records[index], "tenant": "globex-us"}, *records[index + 1 :]]


def index_of(records: Records, request: str, kind: str = "begin") -> int:
    return next(i for i, one in enumerate(records) if one.get("request") == request and one["kind"] == kind)


def edited(request: str) -> Callable[[Records], Records]:
    return lambda records: edit(records, index_of(records, request))


def edited_and_hashed(records: Records) -> Records:
    index = index_of(records, "req_3")
    anew = relinked(edit(records, index)[: index + 1])
    return [*anew, *records[index + 1 :]]


def dropped(records: Records) -> Records:
    index = index_of(records, "req_3")
    return [*records[:index], *records[index + 1 :]]


def swapped(records: Records) -> Records:
    index = index_of(records, "req_3")
    return [*records[:index], records[index + 1], records[index], *records[index + 2 :]]


def doubled(records: Records) -> Records:
    index = index_of(records, "req_3")
    return [*records[:index], records[index], *records[index:]]


def inserted(records: Records) -> Records:
    index = index_of(records, "req_3")
    (made_up,) = relinked([{**records[index], "request": "req_99"}])
    return [*records[: index + 1], made_up, *records[index + 1 :]]


def cut(records: Records) -> Records:
    return records[:-4]


def cut_to_checkpoint(records: Records) -> Records:
    points = [index for index, one in enumerate(records) if one["kind"] == "checkpoint"]
    return records[: points[-2] + 1]


def added(records: Records) -> Records:
    return relinked([*records, {**records[-1], "request": "req_99"}])


def rewritten(records: Records) -> Records:
    return relinked(edited("req_3")(records))


def without_checkpoints(records: Records) -> Records:
    return relinked([one for one in rewritten(records) if one["kind"] != "checkpoint"])


def end_without_checkpoints(records: Records) -> Records:
    """From the edited record on there are none: what was signed before still fits."""
    index = index_of(records, "req_8")
    after = [one for one in records[index:] if one["kind"] != "checkpoint"]
    return relinked(edit([*records[:index], *after], index))


def signed_by(signer: ReceiptSigner) -> Callable[[Records], Records]:
    return lambda records: relinked(edited("req_3")(records), signer.sign_checkpoint)


def edited_after_the_last(records: Records) -> Records:
    return relinked(edited("req_12")(records))


def checkpoint_of_another(records: Records) -> Records:
    points = [index for index, one in enumerate(records) if one["kind"] == "checkpoint"]
    anew = list(records)
    anew[points[2]] = {**anew[points[2]], "jws": records[points[1]]["jws"]}
    return relinked(anew)


def all_files_removed(live: Path) -> None:
    for path in files_of(live):
        path.unlink()


def first_file_removed(live: Path) -> None:
    files_of(live)[0].unlink()


def middle_file_removed(live: Path) -> None:
    files_of(live)[1].unlink()


def claimed_retention(live: Path) -> None:
    """The first file is removed, and a record that retention did it is put into the chain."""
    path, following = files_of(live)[:2]
    records = read(live)
    last = max(one["seq"] for one in records if one["seq"] < records_of(following)[0]["seq"])
    hash_ = next(one["hash"] for one in records if one["seq"] == last)
    path.unlink()
    left = read(live)
    claim = {
        **{name: value for name, value in left[-1].items() if name not in ("request", "tenant")},
        "kind": "segments_dropped", "first": 1, "last": last, "last_hash": hash_, "files_count": 1,
        "keep_days": 30,
    }  # fmt: skip
    index = index_of(left, "req_9")
    write(live, relinked([*left[:index], claim, *left[index:]]))


def records_of(path: Path) -> Records:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


ATTACKS: Final = (
    Attack("a record's content edited", changed(edited("req_3"))),
    Attack("a record edited, and its hash made to fit", changed(edited_and_hashed)),
    Attack("a record dropped", changed(dropped)),
    Attack("two records swapped", changed(swapped)),
    Attack("a record doubled", changed(doubled)),
    Attack("a made-up record put in", changed(inserted)),
    Attack("a file in the middle removed", middle_file_removed),
    Attack("the first file removed", first_file_removed),
    Attack("a further file removed after those that retention dropped", first_file_removed, old=True),
    Attack("the chain written anew, every hash made to fit", changed(rewritten)),
    Attack("the same, and its checkpoints taken out", changed(without_checkpoints)),
    Attack("the same from one record on, later checkpoints taken out", changed(end_without_checkpoints)),
    Attack("the first file removed and retention blamed, every hash made to fit", claimed_retention),
    Attack("a checkpoint replaced by an earlier one, every hash made to fit", changed(checkpoint_of_another)),
    Attack("the chain written and signed anew with another key", changed(signed_by(STRANGER)), "a key"),
    Attack("a record after the last checkpoint edited, its hash made to fit", changed(edited_after_the_last)),
    Attack("a made-up record added at the end", changed(added)),
    Attack("the end cut off, within what no checkpoint covers", changed(lambda records: records[:-2])),
    Attack("the end cut off at an earlier checkpoint", changed(cut_to_checkpoint)),
    Attack("all files of a replica removed", all_files_removed),
    Attack("the chain written and signed anew with the gateway's own key", changed(signed_by(SIGNER)),
           "the gateway's key"),
)  # fmt: skip


async def outcome_of(attack: Attack, directory: Path) -> Outcome:
    """What the three checks say after the attack on one of two chains.

    The anchor names the last record of either chain: a client's receipt does, as soon as it is signed.
    """
    audit = directory / "audit"
    first, second = (await aged(audit, SIGNER), None) if attack.old else await two_replicas(audit, SIGNER)
    anchors = tuple(anchor_at_the_end(live) for live in (first, second) if live is not None)
    attack.do(first)
    return Outcome(
        codes(audit),
        codes(audit, pinned=PINNED),
        codes(audit, pinned=PINNED, anchors=anchors),
    )


def anchor_at_the_end(live: Path) -> Anchor:
    last = read(live)[-1]
    return Anchor(last["replica"], last["seq"], last["hash"], "the receipt rcpt_1", "receipts.txt", 1)


def codes(audit: Path, **given: Any) -> tuple[str, ...]:
    found: Iterable[str] = (
        finding.code for report in verify_files([audit], **given) for finding in report.alterations
    )
    return tuple(dict.fromkeys(found))


def table() -> str:
    rows = []
    for attack in ATTACKS:
        with tempfile.TemporaryDirectory() as directory:
            outcome = asyncio.run(outcome_of(attack, Path(directory)))
        cells = (
            "`" + "`, `".join(found) + "`" if found else "not found"
            for found in (outcome.alone, outcome.with_key, outcome.with_anchor)
        )
        rows.append(f"| {attack.name} | {attack.who} | {' | '.join(cells)} |\n")
    return (
        "| attack | needs | files alone | and the key | and an anchor |\n|---|---|---|---|---|\n"
        + "".join(rows)
    )


def page_with(made: str) -> str:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{made}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with(table()), encoding="utf-8")
