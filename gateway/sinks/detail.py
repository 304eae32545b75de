"""How much of a request a sink may be told: decided by the bundles, at the moment of writing."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from gateway.context import GatewayContext
from gateway.places import Action
from gateway.policy.permit import Permitted
from gateway.residency import Judged, permitted_now


class Detail(StrEnum):
    """`content`: what was asked and answered. `metadata`: ids, codes, numbers and keyed digests.
    `nothing`: not even that there was a request."""

    CONTENT = "content"
    METADATA = "metadata"
    NOTHING = "nothing"


class Known(Judged, Protocol):
    """A request that can be told of."""

    @property
    def processed(self) -> bool:
        """Whether it got past being turned away."""
        ...


def detail(
    place: str, judged: Known, context: GatewayContext, at_worst: tuple[Permitted, ...] = ()
) -> Detail:
    """What both bundles permit at this place: the one that the request came in under, and the one in force.

    An entry with content says who asked as well, so it takes `record` beside `log`. Of a request that was
    turned away there is no content: the gateway itself may not have been a place to read it. Where no label
    is known yet nothing is permitted; where some are, `at_worst` is asked too (`residency.at_worst`).
    """
    if judged.permitted is None:
        return Detail.NOTHING
    both = (judged.permitted, permitted_now(judged, context))
    if not all(permitted.allows(Action.RECORD, place) for permitted in (*both, *at_worst)):
        return Detail.NOTHING
    if not judged.processed or not all(permitted.allows(Action.LOG, place) for permitted in both):
        return Detail.METADATA
    return Detail.CONTENT
