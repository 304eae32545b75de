"""The difference that an offered bundle would make, in few words, for the audit.

It is told in a process of its own: a comparison of large bundles must not slow the answers of this one, and
can be ended when it takes too long; and of a bundle that nobody trusts, nothing is parsed where requests are.
`python -m gateway.policy.summary` reads both bundles' files from standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.policy.bundle import Bundle
from gateway.policy.compare import Difference, compare
from gateway.policy.load import Loaded, compile_files
from gateway.policy.problems import PolicyInvalid
from gateway.policy.source.check import check
from gateway.policy.source.directory import Files
from gateway.policy.source.document import parse_document
from gateway.policy.source.vocabulary import BundleFile
from gateway.policy.wording import group_lines, sender_lines

TIMEOUT_S: Final = 20.0
SHOWN_MAX: Final = 4  # of what is newly allowed, of what is newly denied, and of what has changed besides
TEXT_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Summary:
    """How many groups of requests are newly allowed and denied, how much else has changed, and the first few
    of each in the words of `douane policy diff`. Where the bundles could not be compared, the counts are None
    and `said` says why."""

    newly_allowed: int | None
    newly_denied: int | None
    also_changed: int | None
    said: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        return {
            "newly_allowed": self.newly_allowed,
            "newly_denied": self.newly_denied,
            "also_changed": self.also_changed,
            "said": self.said,
        }


@dataclass(frozen=True, slots=True)
class Offered:
    """What can be told of a bundle, whether or not it loads: its serial where `bundle.yaml` can be read, and
    the difference to the one in force where there is one and it compiles."""

    serial: int | None
    summary: Summary | None


def describe(before: Files | None, offered: Files, timeout_s: float = TIMEOUT_S) -> Offered:
    """Tells of `offered` beside `before`, the bundle in force, in another process. Never raises for a bundle,
    however it is made: then it says what could not be told."""
    said = {"before": before and as_text(before), "offered": as_text(offered)}
    path = os.pathsep.join(os.path.abspath(part) for part in sys.path)
    try:
        done = subprocess.run(  # noqa: S603 (this very module, by this very interpreter)
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(said).encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            timeout=timeout_s,
            check=True,
        )
        found = json.loads(done.stdout)
        summary = found["summary"]
        if summary is not None:
            summary = Summary(**{**summary, "said": tuple(summary["said"])})
        return Offered(found["serial"], summary)
    except subprocess.TimeoutExpired:
        why = f"it took longer than {timeout_s:.0f} s"
    except subprocess.CalledProcessError as error:
        why = f"the comparison ended with status {error.returncode}"
    except (OSError, ValueError, KeyError, TypeError):
        why = "the comparison gave no answer"
    told = f"the two bundles were not compared: {why}; run `douane policy diff OLD NEW`"
    return Offered(None, None if before is None else Summary(None, None, None, (told,)))


def describe_here(before: Files | None, offered: Files) -> Offered:
    """The same in this process, for as long as it takes."""
    serial = serial_of(offered)
    if before is None:
        return Offered(serial, None)
    try:
        new = compile_files(offered)
    except PolicyInvalid:
        return Offered(serial, None)
    old = compile_files(before)
    return Offered(serial, summary_of(compare(old, new, before, offered), old, new))


def serial_of(files: Files) -> int | None:
    """The serial in `bundle.yaml`; None when it cannot be read."""
    try:
        entry, _ = check(parse_document("bundle.yaml", files.content["bundle.yaml"]), BundleFile)
    except (PolicyInvalid, KeyError):
        return None
    return None if entry is None else entry.serial


def summary_of(found: Difference, old: Loaded, new: Loaded) -> Summary:
    allowed = [
        *told(found.allowed, found.sent_allowed, new.bundle, turned=False),
        *(f"{one.file}: {one.text} (counts as newly allowed)" for one in found.beside if one.loosens),
    ]
    denied = [*told(found.denied, found.sent_denied, old.bundle, turned=True)]
    besides = [f"{one.file}: {one.text}" for one in found.beside if not one.loosens]
    return Summary(
        len(allowed),
        len(denied),
        len(besides),
        tuple(
            bounded(f"{title}: {text}")
            for title, texts in (
                ("newly allowed", allowed), ("newly denied", denied), ("also changed", besides)
            )
            for text in texts[:SHOWN_MAX]
        ),
    )  # fmt: skip


def told(groups: Any, senders: Any, bundle: Bundle, *, turned: bool) -> Iterator[str]:
    """Each group as one text: the lines of `douane policy diff`, without how it is decided."""
    for group in groups:
        yield joined([*group_lines(group, bundle, turned=turned)][:3])
    for sender in senders:
        yield joined([*sender_lines(sender, turned=turned)][:2])


def joined(lines: list[str]) -> str:
    return "; ".join(line.strip() for line in lines)


def bounded(text: str) -> str:
    """A text that fits a record; whatever an offered bundle may hold that is no UTF-8 is a question mark."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def as_text(files: Files) -> Mapping[str, str]:
    """Bytes as text of one character each: an offered file may hold anything."""
    return {name: content.decode("latin-1") for name, content in files.content.items()}


def as_files(text: Mapping[str, str] | None) -> Files | None:
    if text is None:
        return None
    return Files({name: content.encode("latin-1") for name, content in text.items()})


def main() -> None:
    given = json.load(sys.stdin)
    offered = as_files(given["offered"])
    assert offered is not None
    found = describe_here(as_files(given["before"]), offered)
    summary = found.summary and found.summary.fields()
    sys.stdout.write(json.dumps({"serial": found.serial, "summary": summary}))


if __name__ == "__main__":
    main()
