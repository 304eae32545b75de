"""`detectors.yaml`: what a request's own text says about it. Optional; without it nothing is detected."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field

from gateway.detect.kinds import GROUPS, KINDS, kinds_of
from gateway.detect.patterns import Pattern, PatternInvalid, compile_pattern
from gateway.detect.rules import INLINE_BYTES, TEXT_BYTES_MAX, DetectorRules, Redaction
from gateway.detect.scanner import Scanner
from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.source.check import Entry, Text, Word, Words
from gateway.policy.source.document import Document, Path
from gateway.policy.source.residency import (
    Known,
    UnlessEntry,
    empty_conditions,
    place_condition,
    unknown_words,
)

PATTERNS_MAX: Final = 100


class DetectEntry(Entry):
    """Which kinds bring which labels."""

    kinds: Annotated[Words, Field(description="kinds of identifiers, or groups of them")]
    labels: Annotated[Words, Field(description="what a request carries in which one is found")]


class PatternEntry(Entry):
    """A pattern of the bundle's own."""

    id: Word
    tenants: Annotated[Words | None, Field(description="whose requests; default: everyone's")] = None
    pattern: Annotated[Text, Field(description="a regular expression in RE2's syntax")]
    labels: Annotated[Words, Field(description="what a request carries in which it matches")]
    description: Text | None = None


class RedactEntry(Entry):
    """Which kinds certain places are not shown."""

    kinds: Annotated[Words, Field(description="kinds, groups of them, or ids of patterns")]
    at: Annotated[UnlessEntry | None, Field(description="only at these places; default: at any")] = None
    outside: Annotated[
        UnlessEntry | None, Field(description="only at places other than these; default: at any")
    ] = None


class LimitsEntry(Entry):
    """How much text is read, and where."""

    inline_bytes: Annotated[
        int,
        Field(ge=0, le=1 << 20, description="more unread text than this is read off the event loop"),
    ] = INLINE_BYTES
    text_bytes_max: Annotated[
        int,
        Field(ge=1024, le=1 << 24, description="a longer text is not read: it counts as holding everything"),
    ] = TEXT_BYTES_MAX


class DetectorsFile(Entry):
    """`detectors.yaml`"""

    detect: Annotated[list[DetectEntry] | None, Field(min_length=1)] = None
    patterns: Annotated[list[PatternEntry] | None, Field(min_length=1, max_length=PATTERNS_MAX)] = None
    redact: Annotated[list[RedactEntry] | None, Field(min_length=1)] = None
    limits: LimitsEntry = LimitsEntry()


def build_detectors(
    document: Document, file: DetectorsFile, known: Known, content: bytes
) -> tuple[DetectorRules, list[Problem]]:
    """The detectors of a bundle; every kind, label, tenant and place that they name exists."""
    problems: list[Problem] = []
    labels: dict[str, set[str]] = {}

    def require(path: Path, words: Collection[str], what: str, choices: Collection[str]) -> None:
        for index, word in enumerate(words):
            if word not in choices:
                at = (*path, index) if (*path, index) in document.values else path
                message = f"`{word}` is not a known {what}"
                problems.append(document.problem(at, message, did_you_mean(word, choices)))

    words = known.vocabulary.words()
    built_in = KINDS | GROUPS.keys()
    for index, one in enumerate(file.detect or ()):
        require(("detect", index, "kinds"), one.kinds, "kind", built_in)
        require(("detect", index, "labels"), one.labels, "label", words)
        for kind in kinds_of(one.kinds):
            labels.setdefault(kind, set()).update(one.labels)
    patterns, found = build_patterns(document, file, known)
    problems += found
    for index, entry in enumerate(file.patterns or ()):
        require(("patterns", index, "labels"), entry.labels, "label", words)
        require(("patterns", index, "tenants"), entry.tenants or (), "tenant", known.tenants)
        labels.setdefault(entry.id, set()).update(entry.labels)
    ids = {pattern.id for pattern in patterns}
    redactions = []
    for index, redact in enumerate(file.redact or ()):
        path = ("redact", index)
        require((*path, "kinds"), redact.kinds, "kind or pattern", built_in | ids)
        sections = {"at": redact.at, "outside": redact.outside}
        problems += empty_conditions(document, path, sections)
        problems += unknown_words(document, path, sections, known)
        redactions.append(
            Redaction(
                kinds_of(redact.kinds),
                place_condition(redact.at or UnlessEntry()),
                place_condition(redact.outside or UnlessEntry()),
            )
        )
    wanted = frozenset(labels).union(*(redaction.kinds for redaction in redactions)) & KINDS
    rules = DetectorRules(
        revision=hashlib.sha256(content).hexdigest(),
        labels=MappingProxyType({kind: frozenset(names) for kind, names in labels.items()}),
        patterns=patterns,
        redactions=tuple(redactions),
        scanner=Scanner(wanted),
        inline_bytes=file.limits.inline_bytes,
        text_bytes_max=file.limits.text_bytes_max,
    )
    return rules, problems


def build_patterns(
    document: Document, file: DetectorsFile, known: Known
) -> tuple[tuple[Pattern, ...], list[Problem]]:
    """The bundle's patterns: each with an id of its own, and one that RE2 takes."""
    patterns: list[Pattern] = []
    problems: list[Problem] = []
    ids: dict[str, str] = dict.fromkeys((*KINDS, *GROUPS), "a built-in kind")
    for index, entry in enumerate(file.patterns or ()):
        path: Path = ("patterns", index)
        if entry.id in ids:
            message = f"`{entry.id}` is already {ids[entry.id]}"
            problems.append(document.problem((*path, "id"), message, "give the pattern another id"))
        ids[entry.id] = f"a pattern, at {document.file}:{document.mark((*path, 'id')).line}"
        try:
            expression: Any = compile_pattern(entry.pattern)
        except PatternInvalid as error:
            problems.append(document.problem((*path, "pattern"), error.message, error.hint))
            continue
        tenants = None if entry.tenants is None else frozenset(entry.tenants)
        patterns.append(Pattern(entry.id, tenants, expression))
    return tuple(patterns), problems
