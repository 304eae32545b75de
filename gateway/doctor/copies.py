"""Whether the policy would let content be kept where AWS keeps a copy of it.

AWS's own copies (an invocation log, retained prompts) pass by the gateway. They are judged as the gateway's
own sinks are: as a place of kind `log` in the country and under the operator where the copy lies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from gateway.places import Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.compile import compile_table
from gateway.policy.geography import AwsRegion
from gateway.policy.permit import verdict_at
from gateway.policy.requests import Asked, Requests, requests_of

# No id of a bundle has a space, so no rule can name this place: only where it is counts.
COPY: Final = "a copy at AWS"


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """A request that the backend may answer, and whose content must not be kept there: the smallest one."""

    request: str
    rule: str


def copy_place(bundle: Bundle, region: AwsRegion) -> Place | None:
    """A log that AWS keeps in this region; None when the bundle does not know where the region is."""
    country = bundle.geography.regions.get(region.id)
    operator = bundle.geography.partition_operators.get(region.partition)
    if country is None or operator is None:
        return None
    known = bundle.geography.operators[operator]
    return Place(
        id=COPY,
        kind="log",
        models=MappingProxyType({}),
        region=region.id,
        partition=region.partition,
        country=country,
        zones=bundle.geography.zones_of(country),
        operator=known.id,
        regimes=known.regimes,
        attestations=known.attestations,
        source="derived",
        host=None,
    )


def not_permitted(bundle: Bundle, answering: str, copy: Place, gateway: str) -> NotPermitted | None:
    """The smallest request that comes in at `gateway`, that the place `answering` may infer for, and whose
    content may not be logged at `copy`; None when there is no such request. Goes through every class."""
    places = {**bundle.places, copy.id: copy}
    table = compile_table(
        bundle.rules,
        places,
        bundle.vocabulary,
        bundle.geography.zones,
        [(tenant.id, tenant.zone) for tenant in bundle.tenants.values()],
        bundle.routes.models,
        listed_max=0,
    )
    widened = replace(bundle, places=MappingProxyType(places), table=table)
    requests = requests_of(widened, ())
    for asked in requests.asked():
        labels = may(Action.INFER, answering, asked, requests) & ~may(Action.LOG, copy.id, asked, requests)
        if gateway in requests.entrances:
            labels &= requests.allowed(requests.cell(Action.INFER, gateway), asked)
        if labels:
            return smallest(widened, requests, asked, labels)
    return None


def may(action: Action, place: str, asked: Asked, requests: Requests) -> int:
    """The labels with which this may happen at this place, at all that it can be used for."""
    cell = requests.cell(action, place)
    usable = requests.usable(asked, entrances=False) >> cell & 1
    return requests.allowed(cell, asked) if usable else 0


def smallest(bundle: Bundle, requests: Requests, asked: Asked, labels: int) -> NotPermitted:
    first = next(requests.lattice.in_order(requests.lattice.least(labels)))
    who = asked.who.first
    tenant = f"tenant `{who.tenant}`" if who.tenant else "any tenant"
    applying = asked.rules & bundle.table.labels[first]
    verdict = verdict_at(bundle, asked.model.first, applying, Action.LOG, COPY)
    return NotPermitted(
        f"{tenant} in `{who.zone}` with labels `{', '.join(first.names())}`, "
        f"purpose `{asked.purpose.first}`, model `{asked.model.first}`",
        verdict.rule,
    )
