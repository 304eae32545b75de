"""`residency/*.yaml`: the rules, in the order of file names and then of lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, RootModel

from gateway.labels import Vocabulary
from gateway.places import Action, Place
from gateway.policy.geography import Geography
from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.rules import RESERVED_RULE_IDS, Effect, FactCondition, PlaceCondition, Rule
from gateway.policy.source.check import Entry, Text, Word, Words
from gateway.policy.source.document import Document, Path

RULES_MAX = 500

# The conditions of a rule or a claim, by the key that they stand under.
Sections = Mapping[str, Entry | None]

ActionWord = Literal["infer", "cache", "log", "record"]


class UnlessEntry(Entry):
    """Places that a rule is not about. All keys must hold."""

    place_in: Annotated[Words | None, Field(description="any of these zones (upper case) or place ids")] = (
        None
    )
    operator_under: Annotated[
        Words | None, Field(description="the operator is under any of these regimes")
    ] = None
    attested: Annotated[Words | None, Field(description="the place has all of these attestations")] = None


class FactsEntry(Entry):
    """What a request must be for a rule to be about it. All keys must hold."""

    tenant_in: Annotated[Words | None, Field(description="any of these zones (upper case) or tenant ids")] = (
        None
    )
    labels_any: Annotated[Words | None, Field(description="any of these categories")] = None
    labels_all: Annotated[Words | None, Field(description="all of these categories")] = None
    sensitivity_at_least: Annotated[
        str | None, Field(description="this word of the scale or a higher one")
    ] = None
    purpose_in: Annotated[Words | None, Field(description="any of these purposes")] = None
    model_in: Annotated[Words | None, Field(description="any of these models")] = None


class WhenEntry(FactsEntry, UnlessEntry):
    """What a rule is about. All keys must hold."""


class RuleEntry(Entry):
    """One rule: it permits or forbids actions, when some things hold, unless it is about certain places."""

    id: Word
    basis: Annotated[Text | None, Field(description="the legal or contractual ground")] = None
    description: Text | None = None
    permit: Annotated[list[ActionWord] | None, Field(min_length=1)] = None
    forbid: Annotated[list[ActionWord] | None, Field(min_length=1)] = None
    when: WhenEntry | None = None
    unless: UnlessEntry | None = None


class ResidencyFile(RootModel[Annotated[list[RuleEntry], Field(min_length=1)]]):
    """A file of `residency/`"""


@dataclass(frozen=True, slots=True)
class Known:
    """What the conditions of this bundle may name."""

    vocabulary: Vocabulary
    geography: Geography
    places: Mapping[str, Place]
    tenants: Collection[str]
    models: Collection[str]


def build_rules(
    files: list[tuple[Document, ResidencyFile]], known: Known
) -> tuple[tuple[Rule, ...], list[Problem]]:
    """All rules in order. Each has an id of its own, one effect, and names only what exists."""
    rules: list[Rule] = []
    problems: list[Problem] = []
    ids: dict[str, str] = {}
    for document, file in files:
        for index, entry in enumerate(file.root):
            path: Path = (index,)
            at = document.mark((*path, "id"))
            if entry.id in RESERVED_RULE_IDS:
                message = f"`{entry.id}` is what Douane itself says when no rule decides"
                problems.append(document.problem((*path, "id"), message, "give the rule another id"))
            if entry.id in ids:
                message = f"`{entry.id}` is already a rule, at {ids[entry.id]}"
                problems.append(document.problem((*path, "id"), message, "give each rule its own id"))
            ids[entry.id] = f"{document.file}:{at.line}"
            if (entry.permit is None) == (entry.forbid is None):
                hint = "write one of `permit: [...]` and `forbid: [...]`"
                problems.append(document.problem(path, f"`{entry.id}` must permit or forbid", hint))
            sections = {"when": entry.when, "unless": entry.unless}
            problems += empty_conditions(document, path, sections)
            problems += unknown_words(document, path, sections, known)
            rules.append(rule_of(document, entry, at.line))
    if len(rules) > RULES_MAX:
        where = files[-1][0]
        problems.append(
            where.problem((), f"more than {RULES_MAX} rules", "join rules that differ in one word")
        )
    return tuple(rules), problems


def rule_of(document: Document, entry: RuleEntry, line: int) -> Rule:
    """The rule of an entry."""
    when, unless = entry.when or WhenEntry(), entry.unless or UnlessEntry()
    actions = entry.permit if entry.permit is not None else entry.forbid or []
    return Rule(
        id=entry.id,
        effect=Effect.PERMIT if entry.permit is not None else Effect.FORBID,
        actions=frozenset(Action(word) for word in actions),
        facts=fact_condition(when),
        place=place_condition(when),
        unless=place_condition(unless),
        basis=entry.basis,
        description=entry.description or "",
        file=document.file,
        line=line,
    )


def fact_condition(entry: FactsEntry) -> FactCondition:
    return FactCondition(
        tenant_in=words(entry.tenant_in),
        purpose_in=words(entry.purpose_in),
        model_in=words(entry.model_in),
        sensitivity_at_least=entry.sensitivity_at_least,
        labels_any=words(entry.labels_any),
        labels_all=words(entry.labels_all),
    )


def place_condition(entry: UnlessEntry) -> PlaceCondition:
    return PlaceCondition(words(entry.place_in), words(entry.operator_under), words(entry.attested))


def words(given: list[str] | None) -> frozenset[str] | None:
    return None if given is None else frozenset(given)


def empty_conditions(document: Document, path: Path, sections: Sections) -> list[Problem]:
    """An empty `unless` would hold everywhere and silence the rule; an empty `when` says nothing."""
    return [
        document.problem((*path, key), f"`{key}` is empty", f"name a condition, or remove `{key}`", key=True)
        for key, value in sections.items()
        if value is not None and not value.model_fields_set
    ]


def unknown_words(document: Document, path: Path, sections: Sections, known: Known) -> list[Problem]:
    """A problem for each word of a condition that this bundle does not have."""
    zones = known.geography.names()
    allowed: Mapping[str, tuple[str, Collection[str]]] = {
        "tenant_in": ("zone or tenant", {*zones, *known.tenants}),
        "labels_any": ("category", known.vocabulary.categories),
        "labels_all": ("category", known.vocabulary.categories),
        "labels_at_most": ("label", known.vocabulary.words()),
        "sensitivity_at_least": ("word of the sensitivity scale", known.vocabulary.scale),
        "purpose_in": ("purpose", known.vocabulary.purposes),
        "model_in": ("model", known.models),
        "place_in": ("zone or place", {*zones, *known.places}),
        "operator_under": ("regime", known.geography.regimes),
        "attested": ("attestation", known.geography.attestations),
    }
    problems = []
    for section, condition in sections.items():
        for key in condition.model_fields_set if condition is not None else ():
            what, choices = allowed[key]
            value = getattr(condition, key)
            problems += [
                document.problem(
                    word_path(document, (*path, section, key), word),
                    f"`{word}` is not a known {what}",
                    word_hint(key, word, choices, known),
                )
                for word in ([value] if isinstance(value, str) else value)
                if word not in choices
            ]
    return problems


def word_path(document: Document, path: Path, word: str) -> Path:
    """Where this word of a list stands."""
    index = 0
    while (*path, index) in document.values:
        value = document.data
        for part in (*path, index):
            value = value[part]
        if value == word:
            return (*path, index)
        index += 1
    return path


def word_hint(key: str, word: str, choices: Collection[str], known: Known) -> str:
    if key in ("labels_any", "labels_all") and word in known.vocabulary.scale:
        return f"`{word}` is a sensitivity; write `sensitivity_at_least: {word}`"
    if key == "sensitivity_at_least" and word in known.vocabulary.categories:
        return f"`{word}` is a category; write `labels_any: [{word}]`"
    if key in ("tenant_in", "place_in") and word in ("UK", "EL"):
        return "did you mean `GB`?" if word == "UK" else "did you mean `GR`?"
    return did_you_mean(word, choices)
