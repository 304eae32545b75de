"""What a reviewer must see of two bundles beside what becomes allowed or denied: what changed, by file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any

from gateway.facts import Caller
from gateway.labels import Labels
from gateway.places import Place
from gateway.policy.beside import Beside, members, named, words
from gateway.policy.bundle import Bundle
from gateway.policy.claims import Claim
from gateway.policy.load import Loaded
from gateway.policy.reading import order_kept
from gateway.policy.routes import Route
from gateway.policy.rules import Rule
from gateway.policy.senders import callers
from gateway.policy.source.cases import expectations
from gateway.policy.source.directory import ADOPTED, Files
from gateway.policy.source.packs import Pack
from gateway.policy.weakenings import weakenings


def changes(old: Loaded, new: Loaded, old_files: Files, new_files: Files) -> tuple[Beside, ...]:
    """Every change of words, zones, places, tenants, detectors, packs, rules, claims, examples and routes."""
    before, after = old.bundle, new.bundle
    return (
        *serial(before, after),
        *vocabulary(before, after),
        *zones(before, after),
        *places(before, after),
        *tenants(before, after),
        *weakenings(before, after, old_files, new_files),
        *packs(old.packs, new.packs),
        *rules(before.rules, after.rules),
        *claims(old.claims, new.claims),
        *examples(old, new),
        *routes(before, after),
    )


def serial(before: Bundle, after: Bundle) -> Iterator[Beside]:
    if before.revision != after.revision and after.serial <= before.serial:
        text = f"the serial has not grown: {before.serial}, then {after.serial}"
        yield Beside("bundle.yaml", text)


def vocabulary(before: Bundle, after: Bundle) -> Iterator[Beside]:
    file, one, other = "bundle.yaml", before.vocabulary, after.vocabulary
    for what, was, now in (
        ("sensitivity", one.scale, other.scale),
        ("category", one.categories, other.categories),
        ("purpose", one.purposes, other.purposes),
    ):
        yield from named(file, what, was, now)
    if not order_kept(one, other):
        text = (
            "the scale is in another order, so that the higher of two words is another: "
            f"`{' < '.join(one.scale)}`, then `{' < '.join(other.scale)}`"
        )
        yield Beside(file, text, loosens=True)


def zones(before: Bundle, after: Bundle) -> Iterator[Beside]:
    file, one, other = "zones.yaml", before.geography, after.geography
    yield from named(file, "union", one.unions, other.unions)
    yield from named(file, "regime", one.regimes, other.regimes)
    yield from named(file, "attestation", one.attestations, other.attestations)
    yield from named(file, "operator", one.operators, other.operators)
    for attestation in sorted(one.attestations.keys() & other.attestations.keys()):
        then, since = one.attestations[attestation], other.attestations[attestation]
        if then != since:
            said = [("anyone" if who is None else words(who)) for who in (then, since)]
            text = f"the attestation `{attestation}` may be claimed by `{said[1]}`, before by `{said[0]}`"
            yield Beside(file, text)
    for union in sorted(one.unions.keys() & other.unions.keys()):
        yield from members(file, f"the union `{union}`", one.unions[union], other.unions[union])
    for region in sorted(one.regions.keys() & other.regions.keys()):
        if one.regions[region] != other.regions[region]:
            text = f"the region `{region}` is in `{other.regions[region]}`, not `{one.regions[region]}`"
            yield Beside(file, text)
    for operator in sorted(one.operators.keys() & other.operators.keys()):
        was, now = one.operators[operator], other.operators[operator]
        yield from members(file, f"the operator `{operator}`: regimes", was.regimes, now.regimes)
        about = f"the operator `{operator}`: attestations"
        yield from members(file, about, was.attestations, now.attestations)


def places(before: Bundle, after: Bundle) -> Iterator[Beside]:
    file = "places.yaml"
    yield from named(file, "place", before.places, after.places)
    for place in sorted(before.places.keys() & after.places.keys()):
        was, now = before.places[place], after.places[place]
        for what, old, new in zip(PLACE, place_facts(was), place_facts(now), strict=True):
            if old != new:
                yield Beside(file, f"the place `{place}`: {what} was `{old}`, is `{new}`")


PLACE = ("kind", "country", "operator", "region", "host", "regimes", "attestations", "models")


def place_facts(place: Place) -> tuple[str, ...]:
    models = ", ".join(f"{model}: {upstream}" for model, upstream in sorted(place.models.items()))
    return (
        place.kind,
        place.country,
        place.operator,
        place.region or "none",
        place.host or "none",
        words(place.regimes),
        words(place.attestations),
        models or "none",
    )


def tenants(before: Bundle, after: Bundle) -> Iterator[Beside]:
    file = "tenants.yaml"
    yield from named(file, "tenant", before.tenants, after.tenants)
    earlier, later = callers(before), callers(after)
    hashes = {pair: sha256 for sha256, pair in before.keys.items()}
    for (tenant, key), now in sorted(later.items()):
        if tenant not in before.tenants:
            continue
        if (tenant, key) not in earlier:
            yield Beside(file, f"a new key `{key}` of `{tenant}`")
            continue
        about = f"`{tenant}`" if not key else f"the key `{key}` of `{tenant}`"
        for what, old, new in zip(CALLER, caller_facts(earlier[tenant, key]), caller_facts(now), strict=True):
            # What a key does not say for itself is its tenant's, which is said already.
            if old != new and not (key and unsaid(what, earlier, later, tenant, key)):
                yield Beside(file, f"{about}: {what} was `{old}`, is `{new}`")
        if key and after.keys.get(hashes[tenant, key]) != (tenant, key):
            yield Beside(file, f"the key `{key}` of `{tenant}` is another key: its hash has changed")
    for tenant, key in sorted(earlier.keys() - later.keys()):
        if key and tenant in after.tenants:
            yield Beside(file, f"the key `{key}` of `{tenant}` is gone")
    for sha256 in sorted(before.keys.keys() & after.keys.keys()):
        was, holder = before.keys[sha256], after.keys[sha256]
        if was != holder:
            text = f"whoever holds the key `{was[1]}` of `{was[0]}` now is `{holder[1]}` of `{holder[0]}`"
            yield Beside(file, text, loosens=True)


CALLER = ("country", "purpose", "undeclared labels", "floor", "ceiling", "models", "limits")


def caller_facts(caller: Caller) -> tuple[str, ...]:
    limits = (f"{one.name} {getattr(caller.limits, one.name)}" for one in fields(caller.limits))
    return (
        caller.zone,
        caller.purpose,
        shown(caller.labels),
        shown(caller.floor),
        shown(caller.ceiling),
        "any" if caller.models is None else words(caller.models),
        ", ".join(limit for limit in limits if not limit.endswith(" None")) or "none",
    )


def unsaid(
    what: str,
    earlier: Mapping[tuple[str, str], Caller],
    later: Mapping[tuple[str, str], Caller],
    tenant: str,
    key: str,
) -> bool:
    """Whether a key has, before and after, what its tenant has."""
    at = CALLER.index(what)
    return all(
        caller_facts(side[tenant, key])[at] == caller_facts(side[tenant, ""])[at] for side in (earlier, later)
    )


def rules(before: tuple[Rule, ...], after: tuple[Rule, ...]) -> Iterator[Beside]:
    was, now = ({rule.id: rule for rule in side} for side in (before, after))
    for rule in [rule for rule in before if rule.id not in now]:
        yield Beside(rule.file, f"the rule `{rule.id}` is gone (it {rule.effect}s)")
    for rule in after:
        if rule.id not in was:
            yield Beside(rule.file, f"a new rule `{rule.id}` (it {rule.effect}s)")
        elif said := differing(was[rule.id], rule, ("file", "line")):
            yield Beside(rule.file, f"the rule `{rule.id}` says something else: {said}")


def packs(before: tuple[Pack, ...], after: tuple[Pack, ...]) -> Iterator[Beside]:
    was, now = ({pack.name: pack for pack in side} for side in (before, after))
    yield from named(f"{ADOPTED}/", "pack", was, now)
    for name in sorted(was.keys() & now.keys()):
        if was[name].version != now[name].version:
            text = f"the pack is of version {now[name].version}, before of {was[name].version}"
            yield Beside(f"{ADOPTED}/{name}/pack.yaml", text)


def claims(before: tuple[Claim, ...], after: tuple[Claim, ...]) -> Iterator[Beside]:
    was, now = ({claim.id: claim for claim in side} for side in (before, after))
    for claim in [claim for claim in before if claim.id not in now]:
        yield Beside(claim.file, f"the claim `{claim.id}` is gone: nothing proves it any longer")
    for claim in after:
        if claim.id not in was:
            yield Beside(claim.file, f"a new claim `{claim.id}`")
        elif said := differing(was[claim.id], claim, ("file", "line")):
            yield Beside(claim.file, f"the claim `{claim.id}` says something else: {said}")


def examples(old: Loaded, new: Loaded) -> Iterator[Beside]:
    kept = {case.name: case for case in new.cases}
    for case in old.cases:
        if case.name not in kept:
            yield Beside(case.file, f"the example `{case.name}` is gone")
        elif expectations(case) != expectations(kept[case.name]) or case.request != kept[case.name].request:
            yield Beside(case.file, f"the example `{case.name}` asks or expects something else")


def routes(before: Bundle, after: Bundle) -> Iterator[Beside]:
    """A route never widens anything: it orders what the rules permit."""
    file = "routes.yaml"
    was, now = ({route.id: route for route in bundle.routes.routes} for bundle in (before, after))
    yield from named(file, "route", was, now)
    for route in [one for one in was if one in now]:
        if was[route].tiers != now[route].tiers:
            text = f"the route `{route}` tries `{tried(now[route])}`, before `{tried(was[route])}`"
            yield Beside(file, text)
        for name in differing_fields(was[route], now[route], ("tiers",)):
            said = [plain(getattr(side[route], name)) for side in (was, now)]
            yield Beside(file, f"the route `{route}`: `{name}` was `{said[0]}`, is `{said[1]}`")
    if [one for one in was if one in now] != [one for one in now if one in was]:
        yield Beside(file, "the routes are in another order")
    aliases = before.routes.aliases, after.routes.aliases
    yield from named(file, "alias", *aliases)
    for alias in sorted(aliases[0].keys() & aliases[1].keys()):
        if aliases[0][alias] != aliases[1][alias]:
            text = f"the alias `{alias}` stands for `{aliases[1][alias]}`, before `{aliases[0][alias]}`"
            yield Beside(file, text)


def tried(route: Route) -> str:
    return ", then ".join(" or ".join(hop.place for hop in tier) for tier in route.tiers)


def differing(one: Rule | Claim, other: Rule | Claim, but: Collection[str]) -> str:
    """The names of the fields in which two of a kind differ, as text."""
    return ", ".join(f"`{name}`" for name in differing_fields(one, other, but))


def differing_fields(one: Any, other: Any, but: Collection[str]) -> Iterator[str]:
    """The same, one by one, of two dataclasses of one kind."""
    names = (field.name for field in fields(one) if field.name not in but)
    return (name for name in names if getattr(one, name) != getattr(other, name))


def plain(value: object) -> str:
    """A field of a route, as routes.yaml has it."""
    return words(value) if isinstance(value, frozenset) else "left out" if value is None else str(value)


def shown(labels: Labels) -> str:
    return ", ".join(labels.names())
