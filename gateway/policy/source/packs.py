"""`adopted/NAME/pack.yaml`: a pack of rules that the bundle has adopted, and what it needs of the bundle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from gateway.labels import Vocabulary
from gateway.policy.geography import Geography
from gateway.policy.problems import Problem
from gateway.policy.source.check import Entry, Text, Word
from gateway.policy.source.directory import ADOPTED
from gateway.policy.source.document import Document, Path


class NeedsEntry(Entry):
    """The words of the bundle that the rules and claims of the pack use."""

    sensitivity: list[Word] | None = None
    categories: list[Word] | None = None
    purposes: list[Word] | None = None
    zones: list[str] | None = None
    regimes: list[Word] | None = None
    attestations: list[Word] | None = None


class PackFile(Entry):
    """`pack.yaml`"""

    api_version: Annotated[Literal["douane/pack/v1"], Field(alias="apiVersion")]
    name: Word
    version: Annotated[int, Field(ge=1, description="grows with every release of the pack")]
    title: Text
    notice: Annotated[Text, Field(description="what the pack is not: legal advice")]
    needs: Annotated[NeedsEntry, Field(description="what a bundle must have to adopt it, and what it means")]


@dataclass(frozen=True, slots=True)
class Pack:
    """An adopted pack."""

    name: str
    version: int
    title: str
    notice: str


def build_packs(
    files: list[tuple[Document, PackFile]], vocabulary: Vocabulary, geography: Geography
) -> tuple[tuple[Pack, ...], list[Problem]]:
    """The packs in order of their names, and a problem for each word that the bundle does not have."""
    packs = []
    problems: list[Problem] = []
    for document, file in files:
        folder = document.file.split("/")[1]
        if file.name != folder:
            message = f"the pack `{file.name}` lies in `{ADOPTED}/{folder}/`"
            problems.append(document.problem(("name",), message, f"rename the folder to `{file.name}`"))
        problems += missing(document, file, vocabulary, geography)
        packs.append(Pack(file.name, file.version, file.title, file.notice))
    return tuple(packs), problems


def missing(
    document: Document, file: PackFile, vocabulary: Vocabulary, geography: Geography
) -> list[Problem]:
    """What the bundle lacks of what the pack needs."""
    has: Mapping[str, tuple[str, Collection[str], str]] = {
        "sensitivity": ("word of the scale", vocabulary.scale, "`sensitivity` in bundle.yaml"),
        "categories": ("category", vocabulary.categories, "`categories` in bundle.yaml"),
        "purposes": ("purpose", vocabulary.purposes, "`purposes` in bundle.yaml"),
        "zones": ("zone", geography.names(), "`unions` in zones.yaml"),
        "regimes": ("regime", geography.regimes, "`regimes` in zones.yaml"),
        "attestations": ("attestation", geography.attestations, "`attestations` in zones.yaml"),
    }
    problems = []
    for key in has:
        what, known, where = has[key]
        for index, word in enumerate(getattr(file.needs, key) or ()):
            if word not in known:
                path: Path = ("needs", key, index)
                message = f"the pack `{file.name}` needs the {what} `{word}`, which this bundle does not have"
                problems.append(document.problem(path, message, f"add it to {where}"))
    return problems


def only_forbids(document: Document, pack: str, entries: Collection[tuple[str, bool]]) -> list[Problem]:
    """A pack can only forbid, so that adopting one never permits anything; its ids are its own.

    `entries` holds, for each rule or claim of a file, its id and whether it permits something.
    """
    problems = []
    for index, (name, permits) in enumerate(entries):
        path: Path = (index, "id")
        if not name.startswith(f"{pack}-"):
            message = f"`{name}` is of the pack `{pack}`, and does not say so"
            problems.append(document.problem(path, message, f"begin its id with `{pack}-`"))
        if permits:
            message = f"`{name}` permits, but a pack can only forbid"
            hint = "what a bundle permits stands in its own `residency/`"
            problems.append(document.problem(path, message, hint))
    return problems
