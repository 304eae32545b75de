"""What each entrance cannot serve: the classes of requests that a gateway must refuse where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.geography import Geography
from gateway.policy.lattice import join, ones
from gateway.policy.permit import verdict_at
from gateway.policy.requests import Alike, Asked, Requests, Who, asked_of, requests_of
from gateway.policy.rules import PlaceCondition

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Unserved:
    """Requests of any of `whos`, for any of `purposes`, with any of `models`, that carry the labels of one of
    `labels_from` or more. `rules` are those that stand against the first and smallest of them."""

    whos: tuple[Who, ...]
    purposes: tuple[str, ...]
    models: tuple[str, ...]
    labels_from: tuple[Labels, ...]
    rules: tuple[str, ...]

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "tenants": [who.tenant for who in self.whos if who.tenant],
            "zones": [who.zone for who in self.whos if not who.tenant],
            "purposes": list(self.purposes),
            "models": list(self.models),
            "labels_from": [list(labels.names()) for labels in self.labels_from],
            "rules": list(self.rules),
        }


@dataclass(frozen=True, slots=True)
class Entrance:
    """A gateway, and the requests that it cannot serve."""

    place: str
    country: str
    unserved: tuple[Unserved, ...]

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "place": self.place,
            "country": self.country,
            "cannot_serve": [group.wire() for group in self.unserved],
        }


def entrances_of(bundle: Bundle) -> tuple[Entrance, ...]:
    """Each gateway of the bundle with the requests that it cannot serve: because it may not read them itself,
    because no backend may answer them, or because no sink may record them."""
    requests = requests_of(bundle, ())
    every = list(requests.asked())
    return tuple(
        Entrance(door, bundle.places[door].country, tuple(groups(door, every, requests)))
        for door in requests.entrances
    )


def groups(door: str, every: Iterable[Asked], requests: Requests) -> Iterator[Unserved]:
    """The unserved requests, those together that differ in nothing but tenant, then purpose, then model."""
    unserved: dict[Alike[Who], dict[Alike[str], dict[Alike[str], int]]] = {}
    for asked in every:
        labels = requests.lattice.everything & ~served(door, asked, requests)
        unserved.setdefault(asked.who, {}).setdefault(asked.purpose, {})[asked.model] = labels
    for whos, of_purpose in equal(unserved):
        for purposes, of_model in equal(of_purpose):
            for models, points in equal(of_model):
                if points:
                    least = tuple(requests.lattice.in_order(requests.lattice.least(points)))
                    first = asked_of(whos[0], purposes[0], models[0])
                    yield Unserved(
                        tuple(sorted(members(whos), key=lambda who: (not who.tenant, who))),
                        tuple(sorted(members(purposes))),
                        tuple(sorted(members(models))),
                        least,
                        against(door, first, least[0], requests),
                    )


def equal(values: Mapping[Key, Value]) -> list[tuple[list[Key], Value]]:
    """The keys of equal values together, each list with its value."""
    found: list[tuple[list[Key], Value]] = []
    for key, value in values.items():
        for keys, known in found:
            if known == value:
                keys.append(key)
                break
        else:
            found.append(([key], value))
    return found


def members(classes: Iterable[Alike[Value]]) -> Iterator[Value]:
    return (member for each in classes for member in each.members)


def needs(door: str, asked: Asked, requests: Requests) -> list[int]:
    """The cells of which one each must be permitted: the gateway's own, the backends', the sinks'."""
    usable, everywhere = requests.usable(asked, entrances=False), requests.places(PlaceCondition())
    return [
        requests.cells([Action.INFER], requests.bit(door)),
        requests.cells([Action.INFER], everywhere) & usable,
        requests.cells([Action.RECORD], everywhere) & usable,
    ]


def served(door: str, asked: Asked, requests: Requests) -> int:
    """The labels with which this entrance can serve such a request."""
    labels = requests.lattice.everything
    for cells in needs(door, asked, requests):
        labels &= join(requests.allowed(cell, asked) for cell in ones(cells))
    return labels


def against(door: str, asked: Asked, labels: Labels, requests: Requests) -> tuple[str, ...]:
    """The rules that stand in the way of the first need that is not met."""
    bundle = requests.bundle
    applying = asked.rules & bundle.table.labels[labels]
    for cells in needs(door, asked, requests):
        verdicts = [
            verdict_at(bundle, asked.model.first, applying, action, place)
            for action, place in bundle.table.named(cells)
        ]
        if not any(verdict.allowed for verdict in verdicts):
            return tuple(dict.fromkeys(verdict.rule for verdict in verdicts))
    raise AssertionError("what is not served lacks nothing")


def in_words(whos: Sequence[Who], bundle: Bundle) -> str:
    """Tenants in few words: unions stand for their members, a country for its tenants; a tenant is named
    where it is not what its country is."""
    every = set(bundle.geography.zones)
    zones = {who.zone for who in whos if not who.tenant}
    if len(zones) > len(every) // 2:
        rest = covered(every - zones, bundle.geography)
        words = [f"everyone but {', '.join(rest)}" if rest else "everyone"]
    else:
        words = covered(zones, bundle.geography)
    words += [who.tenant for who in whos if who.tenant and who.zone not in zones]
    named = [who.tenant for who in whos]
    besides = [one.id for one in bundle.tenants.values() if one.zone in zones and one.id not in named]
    return ", ".join(words) + (f" (not {', '.join(sorted(besides))})" if besides else "")


def covered(zones: set[str], geography: Geography) -> list[str]:
    """The fewest names of unions and countries that make up these countries, by taking the largest first."""
    names, left = [], set(zones)
    for union, members in sorted(geography.unions.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        if members <= zones and len(members & left) > 1:
            names.append(union)
            left -= members
    return [*names, *sorted(left)]
