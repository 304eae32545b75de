"""Who asks and what the request carries: all that a residency decision may look at."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.labels import Labels, Vocabulary


@dataclass(frozen=True, slots=True)
class Limits:
    """Rate and money bounds of a caller; None is unbounded."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_day: float | None = None
    max_concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller, as the bundle describes it.

    `labels` are assumed when the caller declares none. `floor` always joins: what the tenant and the key say
    of every request, so that a declaration only ever tightens. `ceiling` is the highest
    that this tenant may carry: it stands in when the conversation's own labels cannot be read.
    `models` None means every model of the bundle.
    """

    tenant: str
    key_id: str
    zone: str
    purpose: str
    labels: Labels
    floor: Labels
    ceiling: Labels
    limits: Limits
    models: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Facts:
    """The input of `permit`. `zone` is the tenant's country, `model` a canonical name, not an alias."""

    tenant: str
    zone: str
    purpose: str
    model: str
    labels: Labels


def collect_facts(
    caller: Caller,
    model: str,
    header: Labels | None,
    taint: Labels | None,
    detected: Labels | None,
    vocabulary: Vocabulary,
) -> Facts:
    """The facts of one request; pure, and only ever a union of labels.

    `header` is what the caller declared (None: nothing, so the caller's default is assumed), `taint` what
    this conversation carried before, `detected` what detectors found. The floor, taint and detected labels
    join whatever the header says. Raises UnknownLabel for a label that the vocabulary lacks.
    """
    declared = header if header is not None else caller.labels
    joined = [one for one in (declared, caller.floor, taint, detected) if one is not None]
    return Facts(
        tenant=caller.tenant,
        zone=caller.zone,
        purpose=caller.purpose,
        model=model,
        labels=vocabulary.union(*joined),
    )


def above_ceiling(facts: Facts, caller: Caller, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The label names of `facts` that lie above the caller's ceiling; empty when none does.

    A ceiling is what a lost taint is replaced by, so it is only sound when nothing above it was let in:
    a request that carries more is to be refused.
    """
    above = (
        []
        if vocabulary.within(Labels(facts.labels.sensitivity, frozenset()), caller.ceiling)
        else [facts.labels.sensitivity]
    )
    return (*above, *sorted(facts.labels.categories - caller.ceiling.categories))
