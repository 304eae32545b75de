"""`claims.yaml`: what must hold for every request that there could be."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, RootModel

from gateway.labels import Vocabulary
from gateway.places import GATEWAY_KIND, Action
from gateway.policy.claims import Always, Claim, Never
from gateway.policy.decide import place_meets
from gateway.policy.problems import Problem
from gateway.policy.rules import PlaceCondition
from gateway.policy.source.check import Entry, Text, Word, Words
from gateway.policy.source.document import Document, Path
from gateway.policy.source.residency import (
    ActionWord,
    FactsEntry,
    Known,
    UnlessEntry,
    empty_conditions,
    fact_condition,
    place_condition,
    unknown_words,
)

CLAIMS_MAX: Final = 200

OF_NEVER: Final = ("at", "outside")
OF_ALWAYS: Final = ("at_least_one", "denied_at", "denied_outside", "entering_at")


class RequestsEntry(FactsEntry):
    """Which requests a claim is about. All keys must hold."""

    labels_at_most: Annotated[
        Words | None,
        Field(description="nothing above these: no other category, no higher word of the scale than theirs"),
    ] = None


class ClaimEntry(Entry):
    """One claim: something that never happens, or something that always can, whatever is asked."""

    id: Word
    basis: Annotated[Text, Field(description="the law, contract or reason that asks for it")]
    description: Text | None = None
    never: Annotated[
        list[ActionWord] | None, Field(min_length=1, description="none of these actions is ever permitted")
    ] = None
    always: Annotated[ActionWord | None, Field(description="this action is permitted somewhere")] = None
    when: Annotated[RequestsEntry | None, Field(description="of these requests only; default: of all")] = None
    at: Annotated[UnlessEntry | None, Field(description="`never`: at these places; default: at any")] = None
    outside: Annotated[
        UnlessEntry | None, Field(description="`never`: at places other than these; default: at any")
    ] = None
    at_least_one: Annotated[
        UnlessEntry | None, Field(description="`always`: at one of these places; default: at any")
    ] = None
    denied_at: Annotated[
        UnlessEntry | None,
        Field(description="`always`: of requests for which it is denied at all of these places"),
    ] = None
    denied_outside: Annotated[
        UnlessEntry | None,
        Field(description="`always`: of requests for which it is denied at all places other than these"),
    ] = None
    entering_at: Annotated[
        UnlessEntry | None,
        Field(description="`always: infer`: of requests that come in at these gateways; default: at any"),
    ] = None


class ClaimsFile(RootModel[Annotated[list[ClaimEntry], Field(min_length=1)]]):
    """`claims.yaml`"""


def build_claims(
    files: list[tuple[Document, ClaimsFile]], known: Known
) -> tuple[tuple[Claim, ...], list[Problem]]:
    """All claims in order. Each has an id of its own, says one thing, and names only what exists."""
    claims: list[Claim] = []
    problems: list[Problem] = []
    ids: dict[str, str] = {}
    for document, file in files:
        for index, entry in enumerate(file.root):
            path: Path = (index,)
            line = document.mark((*path, "id")).line
            if entry.id in ids:
                message = f"`{entry.id}` is already a claim, at {ids[entry.id]}"
                problems.append(document.problem((*path, "id"), message, "give each claim its own id"))
            ids[entry.id] = f"{document.file}:{line}"
            sections = {key: getattr(entry, key) for key in ("when", *OF_NEVER, *OF_ALWAYS)}
            found = [
                *says_one_thing(document, path, entry),
                *empty_conditions(document, path, sections),
                *unknown_words(document, path, sections, known),
            ]
            problems += found
            if not found:
                claim = claim_of(document, entry, line, known.vocabulary)
                problems += about_nothing(document, path, claim, known)
                claims.append(claim)
    if len(claims) > CLAIMS_MAX:
        message, hint = f"more than {CLAIMS_MAX} claims", "join claims that differ in one word"
        problems.append(files[-1][0].problem((), message, hint))
    return tuple(claims), problems


def says_one_thing(document: Document, path: Path, entry: ClaimEntry) -> list[Problem]:
    """A claim is a `never` or an `always`, and has only the conditions of that."""
    if (entry.never is None) == (entry.always is None):
        hint = "write one of `never: [...]` and `always: ...`"
        return [document.problem(path, f"`{entry.id}` must say `never` or `always`", hint)]
    others, of = (OF_ALWAYS, "always") if entry.never is not None else (OF_NEVER, "never")
    problems = [
        document.problem((*path, key), f"`{key}` belongs to `{of}`", "remove it", key=True)
        for key in others
        if getattr(entry, key) is not None
    ]
    if entry.always not in (None, Action.INFER.value) and entry.entering_at is not None:
        message = "`entering_at` belongs to `always: infer`"
        problems.append(document.problem((*path, "entering_at"), message, "remove it", key=True))
    return problems


def claim_of(document: Document, entry: ClaimEntry, line: int, vocabulary: Vocabulary) -> Claim:
    """The claim of an entry whose words are all known."""
    when = entry.when or RequestsEntry()

    def places(section: UnlessEntry | None) -> PlaceCondition:
        return place_condition(section or UnlessEntry())

    says: Never | Always
    if entry.always is None:
        actions = frozenset(Action(word) for word in entry.never or ())
        says = Never(actions, places(entry.at), places(entry.outside))
    else:
        says = Always(
            action=Action(entry.always),
            at_least_one=places(entry.at_least_one),
            denied_at=places(entry.denied_at),
            denied_outside=places(entry.denied_outside),
            entering_at=places(entry.entering_at),
        )
    return Claim(
        id=entry.id,
        says=says,
        facts=fact_condition(when),
        at_most=None if when.labels_at_most is None else vocabulary.from_names(when.labels_at_most),
        basis=entry.basis,
        description=entry.description or "",
        file=document.file,
        line=line,
    )


def about_nothing(document: Document, path: Path, claim: Claim, known: Known) -> list[Problem]:
    """A claim that no request could break would only look like a guarantee."""
    problems = []
    if not some_labels_meet(claim, known.vocabulary):
        message = f"no labels meet `when` of `{claim.id}`"
        hint = "what it asks for lies above `labels_at_most`; raise that, or ask for less"
        problems.append(document.problem((*path, "when"), message, hint, key=True))
    entrances = [place for place in known.places.values() if place.kind == GATEWAY_KIND]
    asked = claim.says.entering_at if isinstance(claim.says, Always) else PlaceCondition()
    if not asked.empty and not any(place_meets(asked, place) for place in entrances):
        message = f"no gateway meets `entering_at` of `{claim.id}`"
        hint = "name the place or zone of one"
        problems.append(document.problem((*path, "entering_at"), message, hint, key=True))
    return problems


def some_labels_meet(claim: Claim, vocabulary: Vocabulary) -> bool:
    """Whether any set of labels has all that the claim asks for and nothing above its bound."""
    facts, bound = claim.facts, claim.at_most or vocabulary.highest
    least = vocabulary.rank(facts.sensitivity_at_least) if facts.sensitivity_at_least is not None else 0
    return (
        least <= vocabulary.rank(bound.sensitivity)
        and (facts.labels_all is None or facts.labels_all <= bound.categories)
        and (facts.labels_any is None or not facts.labels_any.isdisjoint(bound.categories))
    )
