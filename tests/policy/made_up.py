"""Hypothesis strategies: small bundles whose rules mix every condition."""

from __future__ import annotations

from hypothesis import strategies as st

from gateway.labels import Labels, Vocabulary
from gateway.places import Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.claims import Always, Claim, Never
from gateway.policy.decide import place_meets
from gateway.policy.rules import Effect, FactCondition, PlaceCondition, Rule
from tests.policy.bundles import bundle_of

ZONES = {
    "DE": frozenset({"EU", "EEA"}),
    "NO": frozenset({"EEA", "EFTA"}),
    "CH": frozenset({"EFTA"}),
    "US": frozenset[str](),
}
NAMES = ["DE", "NO", "CH", "US", "EU", "EEA", "EFTA"]
VOCABULARY = Vocabulary(("low", "mid", "high"), frozenset({"x", "y"}), frozenset({"work", "play"}))
MODELS = frozenset({"small", "large"})
REGIMES = ["r1", "r2"]
ATTESTATIONS = ["a1", "a2"]
KINDS = ["engine", "gateway", "redis", "log"]


def some(words: list[str]) -> st.SearchStrategy[frozenset[str] | None]:
    return st.none() | st.frozensets(st.sampled_from(words), min_size=1, max_size=2)


@st.composite
def place(draw: st.DrawFn, number: int) -> Place:
    country = draw(st.sampled_from(sorted(ZONES)))
    kind = draw(st.sampled_from(KINDS))
    models = draw(st.frozensets(st.sampled_from(sorted(MODELS)))) if kind == "engine" else frozenset[str]()
    return Place(
        id="abcdef"[number],
        kind=kind,
        models={model: model for model in models},
        region=None,
        partition=None,
        country=country,
        zones=ZONES[country] | {country},
        operator="self",
        regimes=draw(st.frozensets(st.sampled_from(REGIMES))),
        attestations=draw(st.frozensets(st.sampled_from(ATTESTATIONS))),
        source="declared",
        host=None,
    )


place_conditions = st.builds(
    PlaceCondition,
    place_in=some([*NAMES, "a", "b"]),
    operator_under=some(REGIMES),
    attested=some(ATTESTATIONS),
)


@st.composite
def rule(draw: st.DrawFn, number: int, *, labels_in_permits: bool, effects: tuple[Effect, ...]) -> Rule:
    effect = draw(st.sampled_from(effects))
    labels = labels_in_permits or effect is Effect.FORBID
    return Rule(
        id=f"rule-{number}",
        effect=effect,
        actions=draw(st.frozensets(st.sampled_from(list(Action)), min_size=1)),
        facts=FactCondition(
            tenant_in=draw(some([*NAMES, "in-de", "in-us"])),
            purpose_in=draw(some(sorted(VOCABULARY.purposes))),
            model_in=draw(some(sorted(MODELS))),
            sensitivity_at_least=draw(st.none() | st.sampled_from(VOCABULARY.scale)) if labels else None,
            labels_any=draw(some(sorted(VOCABULARY.categories))) if labels else None,
            labels_all=draw(some(sorted(VOCABULARY.categories))) if labels else None,
        ),
        place=draw(place_conditions),
        unless=draw(st.just(PlaceCondition()) | place_conditions),
        basis=None,
        description="",
        file="made-up.yaml",
        line=number,
    )


@st.composite
def bundles(
    draw: st.DrawFn, *, labels_in_permits: bool = False, effects: tuple[Effect, ...] = tuple(Effect)
) -> Bundle:
    """A bundle of up to five places and six rules; listed or on demand."""
    places = [draw(place(number)) for number in range(draw(st.integers(1, 5)))]
    count = draw(st.integers(0, 6))
    rules = tuple(
        draw(rule(number, labels_in_permits=labels_in_permits, effects=effects)) for number in range(count)
    )
    listed_max = draw(st.sampled_from([100_000, 0]))
    return bundle_of(rules, places, VOCABULARY, ZONES, MODELS, listed_max)


def never(draw: st.DrawFn) -> Never:
    return Never(
        actions=draw(st.frozensets(st.sampled_from(list(Action)), min_size=1)),
        at=draw(some_places),
        outside=draw(some_places),
    )


def always(draw: st.DrawFn, entrances: list[Place]) -> Always:
    action = draw(st.sampled_from([Action.INFER, Action.INFER, Action.CACHE, Action.LOG, Action.RECORD]))
    entering_at = draw(some_places) if action is Action.INFER else PlaceCondition()
    if not any(place_meets(entering_at, place) for place in entrances):
        entering_at = PlaceCondition()  # as the loader insists
    return Always(
        action=action,
        at_least_one=draw(some_places),
        denied_at=draw(some_places),
        denied_outside=draw(some_places),
        entering_at=entering_at,
    )


some_places = st.just(PlaceCondition()) | place_conditions


@st.composite
def claims(draw: st.DrawFn, bundle: Bundle, count: int = 3) -> tuple[Claim, ...]:
    """Claims about a made-up bundle, of either kind and with every condition."""
    entrances = [place for place in bundle.places.values() if place.kind == "gateway"]
    return tuple(
        Claim(
            id=f"claim-{number}",
            says=never(draw) if draw(st.booleans()) else always(draw, entrances),
            facts=FactCondition(
                tenant_in=draw(some([*NAMES, "in-de", "in-us"])),
                purpose_in=draw(some(sorted(VOCABULARY.purposes))),
                model_in=draw(some(sorted(MODELS))),
                sensitivity_at_least=draw(st.none() | st.sampled_from(VOCABULARY.scale)),
                labels_any=draw(some(sorted(VOCABULARY.categories))),
                labels_all=draw(some(sorted(VOCABULARY.categories))),
            ),
            at_most=draw(
                st.none()
                | st.builds(
                    Labels,
                    st.sampled_from(VOCABULARY.scale),
                    st.frozensets(st.sampled_from(sorted(VOCABULARY.categories))),
                )
            ),
            basis="made up",
            description="",
            file="claims.yaml",
            line=number + 1,
        )
        for number in range(count)
    )
