"""`routes.yaml`: among what may happen, what should."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from gateway.places import BACKEND_KINDS, Place
from gateway.policy.geography import Geography
from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.routes import Hop, Otherwise, Route, Routes
from gateway.policy.source.check import Entry, Text, Word, Words
from gateway.policy.source.document import Document, Path


class HopEntry(Entry):
    """One place of a tier."""

    place: str
    weight: Annotated[int, Field(ge=0, le=10_000, description="share of the tier's traffic")] = 100
    spill_when_waiting_over: Annotated[
        int | None, Field(ge=0, description="with more requests waiting than this, the next tier goes first")
    ] = None
    context_tokens: Annotated[
        int | None, Field(ge=1, description="the longest prompt and answer it takes; for `on_context_window`")
    ] = None


class RouteEntry(Entry):
    """The tiers are tried in order; within a tier, by weight or affinity."""

    id: Word
    models: Words
    tenant_in: Annotated[Words | None, Field(description="zones (upper case) whose tenants it is for")] = None
    tiers: Annotated[list[Annotated[list[HopEntry], Field(min_length=1)]], Field(min_length=1)]
    attempts_max: Annotated[int, Field(ge=1, le=20)]
    first_byte_timeout_s: Annotated[float, Field(gt=0, le=3600)]
    total_timeout_s: Annotated[float, Field(gt=0, le=86_400)]
    hedge_after_s: Annotated[
        float | None,
        Field(gt=0, le=3600, description="with no first byte after so long, the next place is asked beside"),
    ] = None
    on_context_window: Annotated[
        Otherwise, Field(description="`next`: where a request does not fit, a place with a larger context")
    ] = "refuse"
    on_content_filter: Annotated[
        Otherwise, Field(description="`next`: where a filter withholds the answer, the next place is tried")
    ] = "refuse"


class RoutesFile(Entry):
    """`routes.yaml`"""

    aliases: Annotated[dict[Text, str] | None, Field(description="a name that clients use, to its model")] = (
        None
    )
    routes: Annotated[list[RouteEntry], Field(min_length=1)]


def build_routes(
    document: Document, file: RoutesFile, places: Mapping[str, Place], geography: Geography
) -> tuple[Routes, list[Problem]]:
    """The routes. Every model that a place serves has a route for everyone, and nothing comes after it."""
    served = frozenset(model for place in places.values() for model in place.models)
    problems: list[Problem] = []

    def known(path: Path, word: str, choices: frozenset[str], what: str) -> None:
        if word not in choices:
            problems.append(
                document.problem(path, f"`{word}` is not a known {what}", did_you_mean(word, choices))
            )

    general: dict[str, str] = {}
    ids: set[str] = set()
    routes = []
    for index, entry in enumerate(file.routes):
        path: Path = ("routes", index)
        if entry.id in ids:
            problems.append(document.problem((*path, "id"), f"`{entry.id}` is already a route", "rename it"))
        ids.add(entry.id)
        for model in entry.models:
            known((*path, "models"), model, served, "model")
            if model in general:
                message = f"`{entry.id}` is never used for `{model}`: `{general[model]}` is for everyone"
                problems.append(document.problem(path, message, "put the route for everyone last"))
        for zone in entry.tenant_in or ():
            known((*path, "tenant_in"), zone, geography.names(), "zone")
        if entry.tenant_in is None:
            general.update(dict.fromkeys(entry.models, entry.id))
        if entry.first_byte_timeout_s > entry.total_timeout_s:
            message = "`first_byte_timeout_s` is longer than `total_timeout_s`"
            problems.append(document.problem((*path, "first_byte_timeout_s"), message, "lower it"))
        problems += [*hop_problems(document, path, entry, places), *option_problems(document, path, entry)]
        routes.append(route_of(entry, geography))
    for model in sorted(served - set(general)):
        message = f"`{model}` has no route for everyone"
        problems.append(document.problem(("routes",), message, f"add one with `models: [{model}]`"))
    aliases = file.aliases or {}
    for alias, model in aliases.items():
        known(("aliases", alias), model, served, "model")
        if alias in served:
            message = f"`{alias}` is a model itself"
            problems.append(document.problem(("aliases", alias), message, "remove the alias", key=True))
    return Routes(tuple(routes), served, MappingProxyType(dict(aliases))), problems


def hop_problems(
    document: Document, path: Path, entry: RouteEntry, places: Mapping[str, Place]
) -> list[Problem]:
    """Every hop is a backend that serves a model of the route, once; every tier has a hop with weight."""
    problems = []
    backends = [place.id for place in places.values() if place.kind in BACKEND_KINDS]
    seen: set[str] = set()
    reached: set[str] = set()
    for tier, hops in enumerate(entry.tiers):
        if not any(hop.weight for hop in hops):
            message = "every hop of this tier has weight 0"
            problems.append(document.problem((*path, "tiers", tier), message, "give one of them a weight"))
        for number, hop in enumerate(hops):
            at: Path = (*path, "tiers", tier, number, "place")
            if hop.place not in backends:
                message = f"`{hop.place}` is not a known backend"
                problems.append(document.problem(at, message, did_you_mean(hop.place, backends)))
                continue
            if hop.place in seen:
                message = f"`{hop.place}` is already in this route"
                problems.append(document.problem(at, message, "keep one of them"))
            seen.add(hop.place)
            serves = set(places[hop.place].models) & set(entry.models)
            reached |= serves
            if not serves:
                message = f"`{hop.place}` serves none of `{', '.join(entry.models)}`"
                problems.append(document.problem(at, message, "remove the hop"))
    for model in [model for model in entry.models if model not in reached]:
        message = f"no hop of `{entry.id}` serves `{model}`"
        problems.append(document.problem((*path, "models"), message, "add a hop that does"))
    return problems


def option_problems(document: Document, path: Path, entry: RouteEntry) -> list[Problem]:
    """Options that could never have an effect: whoever wrote them expects one."""
    problems = []
    hops = [hop for tier in entry.tiers for hop in tier if hop.weight]
    options = {
        "hedge_after_s": entry.hedge_after_s is not None,
        "on_context_window": entry.on_context_window == "next",
        "on_content_filter": entry.on_content_filter == "next",
    }
    for key in [key for key, wanted in options.items() if wanted]:
        message = f"`{key}` leads to another place, and"
        if entry.attempts_max < 2:
            hint = f"raise `attempts_max`, or remove `{key}`"
            problems.append(document.problem((*path, key), f"{message} `attempts_max` is 1", hint, key=True))
        elif len(hops) < 2:
            hint = f"add a hop, or remove `{key}`"
            problems.append(document.problem((*path, key), f"{message} there is none", hint, key=True))
    if entry.hedge_after_s is not None and entry.hedge_after_s >= entry.first_byte_timeout_s:
        message = "`hedge_after_s` is not shorter than `first_byte_timeout_s`: the place is given up by then"
        problems.append(document.problem((*path, "hedge_after_s"), message, "lower it"))
    bounds = [hop.context_tokens for hop in hops]
    if entry.on_context_window == "refuse":
        hint = "add `on_context_window: next` to the route, or remove `context_tokens`"
        for tier, tier_hops in enumerate(entry.tiers):
            for number, hop in enumerate(tier_hops):
                if hop.context_tokens is not None:
                    at: Path = (*path, "tiers", tier, number, "context_tokens")
                    message = "`context_tokens` has no effect here"
                    problems.append(document.problem(at, message, hint, key=True))
    elif len(bounds) > 1 and None not in bounds and len(set(bounds)) == 1:
        message = "`on_context_window: next` leads nowhere: no hop has a larger `context_tokens` than another"
        hint = "correct `context_tokens`, or remove `on_context_window`"
        problems.append(document.problem((*path, "on_context_window"), message, hint, key=True))
    return problems


def route_of(entry: RouteEntry, geography: Geography) -> Route:
    tenants: frozenset[str] | None = None
    if entry.tenant_in is not None:
        tenants = frozenset(
            country for zone in entry.tenant_in for country in geography.unions.get(zone, frozenset({zone}))
        )
    return Route(
        id=entry.id,
        models=frozenset(entry.models),
        tiers=tuple(
            tuple(Hop(hop.place, hop.weight, hop.spill_when_waiting_over, hop.context_tokens) for hop in tier)
            for tier in entry.tiers
        ),
        attempts_max=entry.attempts_max,
        first_byte_timeout_s=float(entry.first_byte_timeout_s),
        total_timeout_s=float(entry.total_timeout_s),
        tenant_in=tenants,
        hedge_after_s=float(entry.hedge_after_s) if entry.hedge_after_s is not None else None,
        on_context_window=entry.on_context_window,
        on_content_filter=entry.on_content_filter,
    )
