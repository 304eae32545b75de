"""What becomes allowed for what callers send, though the rules permitted it before: because it carries less.

A tenant's default, floor, ceiling, purpose, models and the aliases decide which facts a request has before
any rule sees them. So a lowered default lets the very same request go further, without any rule having
changed. Every caller (a tenant with a key of no wishes of its own, and each key of the bundle) is looked at
with every declaration that it could make, with none, and with a conversation whose labels cannot be read.
That is all there is, because more labels never permit more: what a conversation carried before, or what
detectors find, only joins a declaration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.facts import Caller
from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.compile import ACTIONS, every_labels
from gateway.policy.diff import standing_at
from gateway.policy.reading import knows, same_place
from gateway.policy.requests import Who
from gateway.policy.witness import Standing

Cell = tuple[Action, str]
Request = tuple[str, Labels | None]  # the model as asked for, and what is declared


class Sent(StrEnum):
    """What comes with a request."""

    DECLARED = "declared"
    NOTHING = "nothing declared"
    UNREADABLE = "labels of the conversation unreadable"


@dataclass(frozen=True, slots=True)
class Carried:
    """What a request carries in one bundle. `refused` says why it gets to no rule, where that is so."""

    purpose: str
    model: str
    labels: Labels
    refused: str | None


@dataclass(frozen=True, slots=True)
class SenderChange:
    """The smallest request of a group. `asked` is the model as the caller names it."""

    declared: Labels | None
    asked: str
    carried_before: Carried
    carried_after: Carried
    before: Standing | None
    after: Standing


@dataclass(frozen=True, slots=True)
class SenderGroup:
    """One action at several places that the requests of one caller gain. `key` is empty for a key of the
    tenant's own rights; `declared_from` has the least declarations, nothing where none is made."""

    tenant: str
    key: str
    sent: Sent
    action: Action
    places: tuple[str, ...]
    models: tuple[str, ...]
    declared_from: tuple[Labels, ...]
    smallest: SenderChange


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two bundles, with what was worked out about them."""

    before: Bundle
    after: Bundle
    _known: dict[tuple[bool, str, int], frozenset[Cell]] = field(default_factory=dict)

    def allowed(self, bundle: Bundle, who: Who, carried: Carried) -> frozenset[Cell]:
        """What the rules of one of the two permit at places that both have."""
        table = bundle.table
        lacks = carried.purpose not in table.purposes or carried.model not in table.models
        if lacks or not knows(bundle.vocabulary, carried.labels):
            return frozenset()
        applying = (
            table.tenants[who.tenant, who.zone]
            & table.purposes[carried.purpose]
            & table.models[carried.model]
            & table.labels[carried.labels]
        )
        key = (bundle is self.after, carried.model, applying)
        if key not in self._known:
            usable = table.usable[carried.model] | table.gateways
            self._known[key] = frozenset(
                (action, place)
                for action, place in table.named(table.allowed(applying) & usable)
                if self.common(place)
            )
        return self._known[key]

    def common(self, place: str) -> bool:
        there, here = self.before.places.get(place), self.after.places.get(place)
        return there is not None and here is not None and same_place(there, here)


def sender_gains(before: Bundle, after: Bundle) -> tuple[SenderGroup, ...]:
    """What callers that both bundles have gain, beside what the rules gain (`gateway.policy.diff.gains`).

    A key that only the later bundle has is held against what a key of the tenant's own rights could do.
    """
    pair = Pair(before, after)
    earlier = callers(before)
    models = asked_models(before, after)
    found: list[SenderGroup] = []
    for (tenant, key), now in sorted(callers(after).items()):
        then = earlier.get((tenant, key), earlier.get((tenant, "")))
        if then is not None:
            found += groups(pair, tenant, key, then, now, models)
    return tuple(found)


def callers(bundle: Bundle) -> dict[tuple[str, str], Caller]:
    """Every caller, by tenant and key; the empty key for one of the tenant's own rights."""
    own = {(tenant.id, ""): tenant.caller for tenant in bundle.tenants.values()}
    return own | {bundle.keys[sha256]: caller for sha256, caller in bundle.callers.items()}


def asked_models(before: Bundle, after: Bundle) -> Mapping[str, tuple[str, str]]:
    """What a caller can write for a model, with the model that each bundle takes it for; of both alone."""
    names = {
        bundle: {model: model for model in bundle.routes.models} | dict(bundle.routes.aliases)
        for bundle in (before, after)
    }
    return {
        name: (names[before][name], model)
        for name, model in sorted(names[after].items())
        if name in names[before] and (name in after.routes.models or names[before][name] != model)
    }


def groups(
    pair: Pair,
    tenant: str,
    key: str,
    then: Caller,
    now: Caller,
    models: Mapping[str, tuple[str, str]],
) -> Iterator[SenderGroup]:
    """What one caller gains, together where the same requests gain it."""
    for sent in Sent:
        by_cell: dict[Cell, list[Request]] = {}
        for asked, (model_then, model_now) in models.items():
            for declared in declarations(sent, pair):
                here = carried(now, model_now, declared, sent, pair.after)
                if here.refused:
                    continue
                there = carried(then, model_then, declared, sent, pair.before)
                if here == there:
                    continue  # the rules alone decide
                for cell in gained(pair, then, now, there, here):
                    by_cell.setdefault(cell, []).append((asked, declared))
        alike: dict[tuple[Request, ...], list[Cell]] = {}
        for cell, gain in by_cell.items():
            alike.setdefault(tuple(gain), []).append(cell)
        for requests, cells in alike.items():
            for action in ACTIONS:
                places = tuple(sorted(place for one, place in cells if one is action))
                if places:
                    asked, declared = min(requests, key=lambda one: size(one, pair.after))
                    there = carried(then, models[asked][0], declared, sent, pair.before)
                    here = carried(now, models[asked][1], declared, sent, pair.after)
                    stands = standings(pair, then, now, there, here, (action, places[0]))
                    yield SenderGroup(
                        tenant=tenant,
                        key=key,
                        sent=sent,
                        action=action,
                        places=places,
                        models=tuple(sorted({asked for asked, _ in requests})),
                        declared_from=least_of({one for _, one in requests if one is not None}, pair.after),
                        smallest=SenderChange(declared, asked, there, here, *stands),
                    )


def declarations(sent: Sent, pair: Pair) -> Iterator[Labels | None]:
    """What a caller can declare: in both bundles, or it is refused in one as a label that is not known."""
    if sent is not Sent.DECLARED:
        yield None
        return
    for labels in every_labels(pair.after.vocabulary):
        if knows(pair.before.vocabulary, labels):
            yield labels


def carried(caller: Caller, model: str, declared: Labels | None, sent: Sent, bundle: Bundle) -> Carried:
    """The facts that such a request has, as `gateway.facts.collect_facts` makes them."""
    vocabulary = bundle.vocabulary
    joined = [declared if declared is not None else caller.labels, caller.floor]
    if sent is Sent.UNREADABLE:
        joined.append(caller.ceiling)
    labels = vocabulary.union(*joined)
    refused = None
    if caller.models is not None and model not in caller.models:
        refused = "the caller may not use the model"
    elif not vocabulary.within(labels, caller.ceiling):
        refused = f"above the ceiling `{', '.join(caller.ceiling.names())}`"
    return Carried(caller.purpose, model, labels, refused)


def gained(pair: Pair, then: Caller, now: Caller, there: Carried, here: Carried) -> frozenset[Cell]:
    """What is permitted now and was not, of what the earlier rules would have permitted to such facts."""
    who_then, who_now = Who(then.tenant, then.zone), Who(now.tenant, now.zone)
    found = pair.allowed(pair.after, who_now, here) & pair.allowed(pair.before, who_then, here)
    return found if there.refused else found - pair.allowed(pair.before, who_then, there)


def standings(
    pair: Pair, then: Caller, now: Caller, there: Carried, here: Carried, cell: Cell
) -> tuple[Standing | None, Standing]:
    who_then, who_now = Who(then.tenant, then.zone), Who(now.tenant, now.zone)
    return (
        None
        if there.refused
        else standing_at(pair.before, who_then, there.purpose, there.model, there.labels, *cell),
        standing_at(pair.after, who_now, here.purpose, here.model, here.labels, *cell),
    )


def size(request: Request, bundle: Bundle) -> tuple[object, ...]:
    """Smaller: declares less, then the model that comes first."""
    asked, declared = request
    if declared is None:
        return (0, 0, (), asked)
    names = tuple(sorted(declared.categories))
    return len(names), bundle.vocabulary.rank(declared.sensitivity), names, asked


def least_of(declared: set[Labels], bundle: Bundle) -> tuple[Labels, ...]:
    """Those above no other one, the smallest first."""
    within = bundle.vocabulary.within
    least = [one for one in declared if not any(other != one and within(other, one) for other in declared)]
    rank = bundle.vocabulary.rank
    return tuple(
        sorted(least, key=lambda one: (len(one.categories), rank(one.sensitivity), sorted(one.categories)))
    )
