"""Hypothesis strategies: small bundles whose rules mix every condition."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from gateway.facts import Caller
from gateway.labels import Labels, Vocabulary
from gateway.places import Action, Place
from gateway.policy.bundle import Bundle, Tenant
from gateway.policy.claims import Always, Claim, Never
from gateway.policy.decide import place_meets
from gateway.policy.rules import Effect, FactCondition, PlaceCondition, Rule
from tests.policy.bundles import bundle_of, table_of

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


ANYTHING = Rule(
    id="anything",
    effect=Effect.PERMIT,
    actions=frozenset(Action),
    facts=FactCondition(),
    place=PlaceCondition(),
    unless=PlaceCondition(),
    basis=None,
    description="",
    file="made-up.yaml",
    line=99,
)


@st.composite
def pairs(draw: st.DrawFn, *, labels_in_permits: bool = False) -> tuple[Bundle, Bundle]:
    """Two bundles: unrelated ones, or one with some rules of the other; then words, places, tenants and what
    callers carry are changed in either."""
    one = draw(bundles(labels_in_permits=labels_in_permits))
    other = draw(bundles(labels_in_permits=labels_in_permits))
    if draw(st.integers(0, 3)):
        kept = [rule for rule in one.rules if draw(st.integers(0, 3))]
        number = st.integers(0, len(other.rules))
        more = [replace(rule, id=f"more-{rule.id}") for rule in other.rules[: draw(number) // 2]]
        other = with_rules(replace(other, places=one.places), (*kept, *more))
    if draw(st.integers(0, 3)):  # else most of what differs is denied in both
        one, other = (with_rules(side, (*side.rules, ANYTHING)) for side in (one, other))
    return draw(varied(one)), draw(varied(other))


@st.composite
def varied(draw: st.DrawFn, bundle: Bundle) -> Bundle:
    """The bundle with other words, other places of the same names, other tenants and other callers."""
    vocabulary = bundle.vocabulary
    if not draw(st.integers(0, 5)):
        vocabulary = draw(
            st.sampled_from(
                [
                    replace(vocabulary, categories=frozenset({"x"})),
                    replace(vocabulary, categories=frozenset({"x", "y", "z"})),
                    replace(vocabulary, scale=("low", "high")),
                    replace(vocabulary, scale=("low", "mid", "more", "high")),
                    replace(vocabulary, scale=("none", *vocabulary.scale)),
                    replace(vocabulary, purposes=frozenset({"work"})),
                ]
            )
        )
    words = set(vocabulary.words()) | vocabulary.purposes
    bundle = replace(bundle, vocabulary=vocabulary)
    bundle = with_rules(bundle, tuple(rule for rule in bundle.rules if mentioned(rule) <= words))
    places = dict(bundle.places)
    if not draw(st.integers(0, 5)):
        moved = draw(st.sampled_from(sorted(places)))
        country = draw(st.sampled_from(sorted(ZONES)))
        places[moved] = replace(places[moved], country=country, zones=ZONES[country] | {country})
    if not draw(st.integers(0, 5)) and len(places) > 1:
        del places[draw(st.sampled_from(sorted(places)))]
    tenants: dict[str, Tenant] = {}
    callers: dict[str, Caller] = {}
    keys: dict[str, tuple[str, str]] = {}
    for tenant in bundle.tenants.values():
        if tenants and not draw(st.integers(0, 5)):
            continue
        zone = tenant.zone if draw(st.integers(0, 7)) else draw(st.sampled_from(sorted(ZONES)))
        own = replace(draw(caller(tenant.caller, vocabulary)), zone=zone)
        tenants[tenant.id] = Tenant(tenant.id, zone, own)
        if not draw(st.integers(0, 3)):
            sha256 = f"sha-{tenant.id}"
            keys[sha256] = (tenant.id, "key")
            callers[sha256] = replace(draw(caller(own, vocabulary)), key_id="key", ceiling=own.ceiling)
    return with_rules(
        replace(bundle, places=places, tenants=tenants, callers=callers, keys=keys), bundle.rules
    )


@st.composite
def caller(draw: st.DrawFn, like: Caller, vocabulary: Vocabulary) -> Caller:
    """A caller that declares, carries and may carry something else, mostly; as the loader makes them."""
    if draw(st.integers(0, 2)):
        like = replace(like, ceiling=vocabulary.highest, floor=vocabulary.lowest, labels=vocabulary.lowest)
        return like if like.purpose in vocabulary.purposes else replace(like, purpose="work")
    ceiling = draw(labels(vocabulary))
    default = draw(st.none() | labels(vocabulary))
    within = [one for one in (default, draw(labels(vocabulary))) if one and vocabulary.within(one, ceiling)]
    floor = vocabulary.union(*within)
    return replace(
        like,
        purpose=draw(st.sampled_from(sorted(vocabulary.purposes))),
        labels=ceiling if default is None or default not in within else default,
        floor=floor,
        ceiling=ceiling,
        models=draw(st.none() | st.frozensets(st.sampled_from(sorted(MODELS)), min_size=1)),
    )


def labels(vocabulary: Vocabulary) -> st.SearchStrategy[Labels]:
    return st.builds(
        Labels,
        st.sampled_from(vocabulary.scale),
        st.frozensets(st.sampled_from(sorted(vocabulary.categories))),
    )


def mentioned(rule: Rule) -> set[str]:
    """Every label and purpose that a rule mentions."""
    facts = rule.facts
    several = (facts.labels_any, facts.labels_all, facts.purpose_in)
    words = {word for found in several for word in found or ()}
    return words | ({facts.sensitivity_at_least} if facts.sensitivity_at_least is not None else set())


def with_rules(bundle: Bundle, rules: tuple[Rule, ...]) -> Bundle:
    """The bundle with these rules, compiled anew."""
    bundle = replace(bundle, rules=rules)
    return replace(bundle, table=table_of(bundle))
