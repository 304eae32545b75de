"""Among what may happen, what should: the order in which permitted places are tried."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway import errors

# When a place will not answer a request: its refusal is told, or the next permitted place is tried.
Otherwise = Literal["refuse", "next"]


class UnknownModel(errors.ModelNotFound):
    """A model that no route serves: 404 `model_not_found`. `model` holds what was asked for."""

    def __init__(self, model: str, known: frozenset[str]) -> None:
        self.model = model
        self.known = known
        near = difflib.get_close_matches(model[:64], sorted(known), n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"use one of `{', '.join(sorted(known))}`"
        super().__init__(f"the model is not served here; {hint}", param="model")


@dataclass(frozen=True, slots=True)
class Hop:
    """One place of a tier. `weight` shares traffic among the hops of the tier.

    `spill_when_waiting_over`: with more requests than this waiting at the place, the next tier is tried
    first; None never spills by load. `context_tokens`: the longest prompt and answer that the place takes,
    where that is known.
    """

    place: str
    weight: int = 100
    spill_when_waiting_over: int | None = None
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The tiers are tried in order, the hops of a tier by weight or affinity.

    `tenant_in` holds the countries whose tenants it is for; None is everyone. `hedge_after_s`: when a place
    has sent nothing for so long, the next one is asked beside it; None never is. `on_context_window` and
    `on_content_filter` say what follows when a place has too small a context, or withholds its answer.
    """

    id: str
    models: frozenset[str]
    tiers: tuple[tuple[Hop, ...], ...]
    attempts_max: int
    first_byte_timeout_s: float
    total_timeout_s: float
    tenant_in: frozenset[str] | None = None
    hedge_after_s: float | None = None
    on_context_window: Otherwise = "refuse"
    on_content_filter: Otherwise = "refuse"


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes in file order. `aliases` maps a name that clients use to the canonical model."""

    routes: tuple[Route, ...]
    models: frozenset[str]
    aliases: Mapping[str, str]

    def canonical(self, model: str) -> str:
        """The canonical name of a model or alias. Raises UnknownModel."""
        name = self.aliases.get(model, model)
        if name not in self.models:
            raise UnknownModel(model, self.models | frozenset(self.aliases))
        return name

    def for_model(self, model: str, zone: str | None = None) -> Route:
        """The first route for this model and tenant country. Raises UnknownModel.

        Without a zone: the route that is for everyone. Loading makes sure that each model has one.
        """
        name = self.canonical(model)
        for route in self.routes:
            if name in route.models and (route.tenant_in is None or zone in route.tenant_in):
                return route
        raise UnknownModel(model, self.models)
