"""What differs between two bundles, and what an entrance cannot serve, in words: lines of text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from gateway.labels import Labels
from gateway.policy.bundle import Bundle
from gateway.policy.compare import Difference
from gateway.policy.diff import Change, Group
from gateway.policy.entrances import Entrance, Unserved, in_words
from gateway.policy.senders import Carried, SenderGroup, Sent
from gateway.policy.witness import Standing

LABELS_SHOWN: Final = 6  # of those from which something is allowed, or not served; JSON has all


def summary(found: Difference) -> str:
    if found.newly_allows:
        return "something is newly allowed"
    if found.denied or found.sent_denied:
        return "nothing is newly allowed; something is newly denied"
    return "nothing is newly allowed, nothing newly denied"


def group_lines(group: Group, bundle: Bundle, *, turned: bool) -> Iterator[str]:
    yield f"`{group.action}` at {quoted(group.places)}"
    purposes = all_or(group.purposes, bundle.vocabulary.purposes, "purpose")
    models = all_or(group.models, bundle.routes.models, "model")
    yield f"    {in_words(group.whos, bundle)}; {purposes}; {models}"
    yield f"    labels from {listed(group.labels_from)} up to {listed(group.labels_to)}"
    change = group.smallest
    yield f"    smallest: {request(change)}"
    sides = (change.before, change.after)
    for when, standing in zip(("before", "after"), reversed(sides) if turned else sides, strict=True):
        gone = change.moved and standing is change.before
        elsewhere = ", but there the place is not the same" if gone and standing.verdict.allowed else ""
        yield f"    {when}: {decided(standing)}{elsewhere}"


def request(change: Change) -> str:
    who = f"tenant `{change.who.tenant}`" if change.who.tenant else "any tenant"
    other = f" (in the other bundle in `{change.zone_before}`)" if change.zone_before else ""
    return (
        f"{who} in `{change.who.zone}`{other}, labels `{', '.join(change.labels.names())}`, "
        f"purpose `{change.purpose}`, model `{change.model}`"
    )


def sender_lines(group: SenderGroup, *, turned: bool) -> Iterator[str]:
    who = f"what `{group.tenant}` sends" + (f" with the key `{group.key}`" if group.key else "")
    yield f"`{group.action}` at {quoted(group.places)}: {who}, though the rules permitted it before"
    if group.sent is Sent.DECLARED:
        yield f"    declaring {listed(group.declared_from)} or more; models {', '.join(group.models)}"
    else:
        yield f"    {group.sent.value}; models {', '.join(group.models)}"
    change = group.smallest
    declared = "nothing" if change.declared is None else f"`{', '.join(change.declared.names())}`"
    yield f"    smallest: declares {declared}, model `{change.asked}`"
    sides = [(change.carried_before, change.before), (change.carried_after, change.after)]
    for when, (carried, standing) in zip(("before", "after"), sides[::-1] if turned else sides, strict=True):
        yield f"    {when}: {taken_for(carried)}: {carried.refused or decided(standing)}"


def taken_for(carried: Carried) -> str:
    labels = ", ".join(carried.labels.names())
    return f"carries `{labels}`, purpose `{carried.purpose}`, model `{carried.model}`"


def decided(standing: Standing | None) -> str:
    assert standing is not None
    word = "permitted" if standing.verdict.allowed else "denied"
    basis = f"; {standing.verdict.basis}" if standing.verdict.basis else ""
    where = f" ({standing.file}:{standing.line}{basis})" if standing.file else ""
    return f"{word} by `{standing.verdict.rule}`{where}"


def entrance_change(was: Entrance | None, now: Entrance | None, old: Bundle, new: Bundle) -> Iterator[str]:
    """The classes that an entrance cannot serve: those that have gone with a minus, those that came with a
    plus."""
    either = now or was
    assert either is not None
    word = "is new" if was is None else "is gone" if now is None else "cannot serve the same as before"
    yield f"entrance {either.place} ({either.country}) {word}:"
    before = [] if was is None else [line for group in was.unserved for line in entrance_lines(group, old)]
    after = [] if now is None else [line for group in now.unserved for line in entrance_lines(group, new)]
    for sign, lines, others in (("-", before, after), ("+", after, before)):
        for who, labels in zip(lines[::2], lines[1::2], strict=True):
            if (who, labels) not in list(zip(others[::2], others[1::2], strict=True)):
                yield f"  {sign} {who.strip()}; {labels.strip()}"


def quoted(places: Sequence[str]) -> str:
    return ", ".join(f"`{place}`" for place in places)


def listed(several: Sequence[Labels]) -> str:
    shown = "; or ".join(f"`{', '.join(labels.names())}`" for labels in several[:LABELS_SHOWN])
    return shown + (f"; and {len(several) - LABELS_SHOWN} more" if len(several) > LABELS_SHOWN else "")


def entrance_lines(group: Unserved, bundle: Bundle) -> tuple[str, str]:
    """Who cannot be served, and from which labels on."""
    labels = [", ".join(one.names()) for one in group.labels_from]
    more = f"; and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else ""
    purposes = all_or(group.purposes, bundle.vocabulary.purposes, "purpose")
    models = all_or(group.models, bundle.routes.models, "model")
    return (
        f"  {in_words(group.whos, bundle)}; {purposes}; {models}",
        f"       from the labels {'; or '.join(labels[:LABELS_SHOWN])}{more}: {', '.join(group.rules)}",
    )


def all_or(chosen: Collection[str], every: Collection[str], what: str) -> str:
    return f"any {what}" if len(chosen) == len(every) else f"{what} {', '.join(chosen)}"
