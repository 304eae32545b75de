"""Which permitted places are tried, and in which order. Pure: states and time are arguments."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.places import Action, Place
from gateway.policy.permit import Permitted
from gateway.policy.routes import Hop, Otherwise, Route
from gateway.routing.attempt import Attempt
from gateway.routing.health import UNKNOWN, BackendState
from gateway.routing.kind import Kind

NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A permitted place that is not tried. `reason` is `unavailable` (its breaker is open), `unsupported` (it
    cannot honour one of `parameters`), `not_loaded` (it does not run the model), `unconfigured` (no backend
    here) or `beyond_bound` (over `attempts_max`)."""

    place: str
    reason: str
    parameters: tuple[str, ...] = ()


class Seen(NamedTuple):
    """A place as the plan saw it; `tier` counts from 0."""

    tier: int
    hop: Hop
    state: BackendState


@dataclass(frozen=True, slots=True)
class Decision:
    """The ordered attempts, drawn from `Permitted`; `route` names the route that ordered them.

    `too_busy` are the places that were put last for having too much to do, `first_kind` is `spill` where the
    route would rather have begun at one of them. `seen` is what the plan saw of each permitted place that has
    a backend here, in the order in which it looked, at `planned_s` of the monotonic clock. The rest is the
    route's word.
    """

    route: str
    attempts: tuple[Attempt, ...]
    skipped: tuple[Skipped, ...]
    first_kind: Kind = "first"
    too_busy: frozenset[str] = NONE
    hedge_after_s: float | None = None
    on_context_window: Otherwise = "refuse"
    on_content_filter: Otherwise = "refuse"
    seen: tuple[Seen, ...] = ()
    planned_s: float = 0.0


def plan(
    permitted: Permitted,
    route: Route,
    places: Mapping[str, Place],
    configured: Set[str],
    unable: Mapping[str, tuple[str, ...]],
    states: Mapping[str, BackendState],
    now_s: float,
    affinity: str,
) -> Decision:
    """Orders the permitted places of `route`.

    `configured` are the places that this gateway has a backend for, `unable` those that cannot honour a
    parameter of this request. Tiers keep their order; within one, `affinity` (any stable text of the
    conversation) picks by weight, so that a conversation stays where its prefix cache is. A place with more
    requests waiting than its spill bound goes to the end. A place outside `permitted` cannot appear:
    `Attempt` refuses to exist for it.
    """
    allowed = permitted.places[Action.INFER]
    ordered: list[Hop] = []
    spilled: list[Hop] = []
    skipped: list[Skipped] = []
    seen: list[Seen] = []
    first_kind: Kind = "first"
    for number, tier in enumerate(route.tiers):
        permitted_hops = [hop for hop in tier if hop.place in allowed and hop.weight]
        usable = tuple(hop for hop in permitted_hops if hop.place in configured)
        if len(usable) < len(permitted_hops):
            missing = (hop.place for hop in permitted_hops if hop.place not in configured)
            skipped.extend(Skipped(place, "unconfigured") for place in missing)
        for hop in by_weight(usable, f"{affinity}/{number}"):
            state = states.get(hop.place, UNKNOWN)
            seen.append(Seen(number, hop, state))
            if hop.place in unable:
                names = unable[hop.place]
                skipped.append(Skipped(hop.place, "unsupported" if names else "not_loaded", names))
            elif not state.accepts(now_s):
                skipped.append(Skipped(hop.place, "unavailable"))
            elif hop.spill_when_waiting_over is not None and state.waiting > hop.spill_when_waiting_over:
                spilled.append(hop)
            else:
                if spilled and not ordered:
                    first_kind = "spill"
                ordered.append(hop)
    candidates = ordered + spilled
    tried = candidates[: route.attempts_max]
    skipped.extend(Skipped(hop.place, "beyond_bound") for hop in candidates[route.attempts_max :])
    return Decision(
        route=route.id,
        attempts=tuple(
            Attempt(
                places[hop.place],
                permitted,
                route.first_byte_timeout_s,
                route.total_timeout_s,
                hop.context_tokens,
            )
            for hop in tried
        ),
        skipped=tuple(skipped),
        first_kind=first_kind,
        too_busy=frozenset([hop.place for hop in spilled]) if spilled else NONE,
        hedge_after_s=route.hedge_after_s,
        on_context_window=route.on_context_window,
        on_content_filter=route.on_content_filter,
        seen=tuple(seen),
        planned_s=now_s,
    )


def by_weight(tier: tuple[Hop, ...], affinity: str) -> tuple[Hop, ...]:
    """The hops by weighted rendezvous hashing: each hop is first for its share of affinities, and a hop
    that comes or goes moves no conversation between the others (Wang & Ravishankar's scheme: the score
    `-w / ln(u)` with `u` uniform from a hash).
    """
    if len(tier) < 2:
        return tier
    return tuple(sorted(tier, key=lambda hop: -score(hop, affinity)))


def score(hop: Hop, affinity: str) -> float:
    digest = hashlib.blake2b(f"{hop.place}\0{affinity}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return hop.weight / -math.log(uniform)
