"""Recorded requests, decided once more under another bundle: what it would have done otherwise. Pure.

A record says who asked, for which model, with which labels, and where each action was permitted then. The
same facts are put to the other bundle, joined with what it says of every request of that key; the answers are
laid side by side in the words of `gateway.shadow.disagreement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.audit.chain import Link
from gateway.audit.explained import Judged, judgements
from gateway.audit.records import Begin, Refused
from gateway.considered import READ
from gateway.facts import Caller, Facts, above_ceiling
from gateway.labels import UnknownLabel
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.permit import permit
from gateway.shadow.disagreement import Disagreement, disagreement
from gateway.shadow.judgement import Grant, Judgement

RESIDENCY: Final = "residency_denied"
ANSWERS: Final = "infer"
DOOR: Final = frozenset({READ, str(Action.RECORD)})  # what the gateway itself does with every request

# Why a record could not be decided again.
NO_FACTS: Final = "it was turned away before it was judged"
OTHER_REASON: Final = "it was refused for another reason than a rule"
NOT_SAID: Final = "it does not say where it was permitted; records from before 0.5 do not"
NO_TENANT: Final = "the bundle has no such tenant"
NO_MODEL: Final = "the bundle has no such model"
NO_LABEL: Final = "the bundle has no such label"
NO_PURPOSE: Final = "the bundle has no such purpose"


@dataclass(slots=True)
class Changed:
    """A group of requests that the other bundle decides otherwise, all in the same way."""

    tenant: str
    disagreement: Disagreement
    count: int
    first: str  # times of the records, UTC
    last: str
    request: str  # one of them


@dataclass(slots=True)
class Replay:
    """`same` counts what is decided alike, `left_out` what could not be decided again, by reason."""

    same: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    groups: dict[tuple[str, Disagreement], Changed] = field(default_factory=dict)

    @property
    def replayed(self) -> int:
        return self.same + sum(group.count for group in self.groups.values())

    @property
    def changed(self) -> list[Changed]:
        """The most frequent first."""
        return sorted(self.groups.values(), key=lambda group: -group.count)


class NotReplayable(Exception):
    """A record that cannot be decided again; the text is one of the reasons above."""


def replay(links: Iterable[Link], bundle: Bundle) -> Replay:
    """Decides every `begin` and `refused` of `links` once more under `bundle`."""
    found = Replay()
    for link in links:
        if link.kind not in (Begin.kind, Refused.kind):
            continue
        try:
            before, now = judged_then(link), judged_under(link, bundle)
        except NotReplayable as reason:
            found.left_out[str(reason)] = found.left_out.get(str(reason), 0) + 1
            continue
        differs = disagreement(before, now)
        if differs is None:
            found.same += 1
            continue
        tenant = str(link.fields["tenant"])
        group = found.groups.get((tenant, differs))
        if group is None:
            request = str(link.fields["request"])
            found.groups[tenant, differs] = Changed(tenant, differs, 1, link.time, link.time, request)
        else:
            group.count += 1
            group.first, group.last = min(group.first, link.time), max(group.last, link.time)
    return found


def judged_then(link: Link) -> Judgement:
    """What the record says. Raises NotReplayable."""
    told = link.fields
    if told.get("tenant") is None or told.get("labels") is None:
        raise NotReplayable(NO_FACTS)
    if link.kind == Refused.kind and told["code"] != RESIDENCY:
        raise NotReplayable(OTHER_REASON)
    rules = told.get("rules") or (None,)
    labels = tuple(told["labels"])
    rows = list(rows_of(told))
    if link.kind == Refused.kind:
        at_the_door = any(one.action in DOOR and not one.allowed for one in rows)
        if not at_the_door and any(one.action == ANSWERS and one.allowed for one in rows):
            raise NotReplayable(OTHER_REASON)  # above a ceiling, or no backend where it is permitted
        return Judgement(RESIDENCY, rules[0], told["model"], told["zone"], labels)
    allowed = [one for one in rows if one.allowed]
    answering = {one.place: one.rule for one in allowed if one.action == ANSWERS}
    rule = answering[min(answering)] if answering else None  # as `judged_under` names one
    grants = frozenset((one.action, one.place) for one in allowed)
    return Judgement(None, rule, told["model"], told["zone"], labels, grants)


def judged_under(link: Link, bundle: Bundle) -> Judgement:
    """What `bundle` says of the same. Raises NotReplayable."""
    told = link.fields
    tenant = bundle.tenants.get(told["tenant"])
    if tenant is None:
        raise NotReplayable(NO_TENANT)
    caller = caller_of(told, bundle)
    if told["model"] not in bundle.table.models:
        raise NotReplayable(NO_MODEL)
    if told["purpose"] not in bundle.table.purposes:
        raise NotReplayable(NO_PURPOSE)
    words = bundle.vocabulary
    try:
        labels = words.union(words.from_names(told["labels"]), caller.floor)
    except UnknownLabel:
        raise NotReplayable(NO_LABEL) from None
    facts = Facts(tenant.id, tenant.zone, told["purpose"], told["model"], labels)
    refused = Judgement(RESIDENCY, None, facts.model, facts.zone, labels.names())
    if above_ceiling(facts, caller, words):
        return refused
    permitted = permit(facts, bundle)
    recorded = [(one.action, one.place) for one in rows_of(told)]
    for word, place in recorded:
        action = Action.INFER if word == READ else Action(word)
        if word in DOOR and not permitted.allows(action, place):
            rule = permitted.verdict(action, place).rule
            return Judgement(RESIDENCY, rule, facts.model, facts.zone, labels.names())
    answering = permitted.places[Action.INFER]
    if not answering:
        return refused
    grants = {grant for grant in recorded if grant[0] != ANSWERS and allowed_still(grant, permitted.allows)}
    grants |= {(ANSWERS, place) for place in answering}
    rule = permitted.verdict(Action.INFER, min(answering)).rule
    return Judgement(None, rule, facts.model, facts.zone, labels.names(), frozenset(grants))


def allowed_still(grant: Grant, allows: Any) -> bool:
    word, place = grant
    return bool(allows(Action.INFER if word == READ else Action(word), place))


def rows_of(told: Mapping[str, Any]) -> Iterator[Judged]:
    """Raises NotReplayable for a record that does not say."""
    if told.get("considered") is None:
        raise NotReplayable(NOT_SAID)
    yield from judgements(told["considered"], {})


def caller_of(told: Mapping[str, Any], bundle: Bundle) -> Caller:
    """What the bundle says of the key that was used, or of its tenant where it has no such key."""
    for caller in bundle.callers.values():
        if (caller.tenant, caller.key_id) == (told["tenant"], told["key"]):
            return caller
    return bundle.tenants[told["tenant"]].caller
