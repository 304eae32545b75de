"""What a refused request could be instead: the nearest one that the rules permit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from gateway.facts import Facts
from gateway.labels import Labels, Vocabulary
from gateway.places import GATEWAY_KIND, Action
from gateway.policy.bundle import Bundle
from gateway.policy.permit import Permitted, permit
from gateway.policy.rules import STALE_FACTS


def answerable(permitted: Permitted, bundle: Bundle) -> bool:
    """Whether a request may come in, be answered somewhere and be recorded, under the rules alone."""
    gateways = any(place.kind == GATEWAY_KIND for place in bundle.places.values())
    return (
        bool(permitted.places[Action.INFER])
        and permitted.recordable
        and (bool(permitted.entrances) or not gateways)
    )


def nearest_alternative(facts: Facts, bundle: Bundle) -> str:
    """One sentence that says what to change so that the request would be permitted.

    Another model comes first, then another purpose, then the fewest labels left away. It is a statement about
    the rules, never advice to label data as what it is not.
    """
    if permit(facts, bundle).digest == "nowhere":
        return f"the facts are not of the current policy revision (`{STALE_FACTS}`); send the request again"
    for model in sorted(bundle.routes.models - {facts.model}):
        places = where(replace(facts, model=model), bundle)
        if places:
            return f"with the same labels, model `{model}` is permitted at {places}"
    for purpose in sorted(bundle.vocabulary.purposes - {facts.purpose}):
        places = where(replace(facts, purpose=purpose), bundle)
        if places:
            return f"for the purpose `{purpose}` it is permitted at {places}"
    for labels in lower(facts.labels, bundle.vocabulary):
        places = where(replace(facts, labels=labels), bundle)
        if places:
            names = ", ".join(labels.names())
            return f"only data labelled at most `{names}` is permitted, at {places}"
    return f"no place may answer tenant `{facts.tenant}` at all; ask who writes the policy"


def where(facts: Facts, bundle: Bundle) -> str:
    """The backends that may answer, for a sentence; empty when the request would still be refused."""
    permitted = permit(facts, bundle)
    if not answerable(permitted, bundle):
        return ""
    return ", ".join(f"`{place}`" for place in sorted(permitted.places[Action.INFER]))


def lower(labels: Labels, vocabulary: Vocabulary) -> Iterator[Labels]:
    """Every labels below these, those that leave away least first; the sensitivity goes before categories."""
    top = vocabulary.rank(labels.sensitivity)
    names = sorted(labels.categories)
    for removed in range(1, top + len(names) + 1):
        for steps in range(min(removed, top), -1, -1):
            kept = len(names) - (removed - steps)
            if kept >= 0:
                for chosen in itertools.combinations(names, kept):
                    yield Labels(vocabulary.scale[top - steps], frozenset(chosen))
