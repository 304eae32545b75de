"""Two bundles side by side: what becomes allowed, what becomes denied, and what else a reviewer must see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.labels import Labels
from gateway.policy.beside import Beside
from gateway.policy.changes import changes
from gateway.policy.diff import Change, Group, gains
from gateway.policy.entrances import Entrance, entrances_of
from gateway.policy.load import Loaded
from gateway.policy.senders import Carried, SenderChange, SenderGroup, sender_gains
from gateway.policy.source.directory import Files


@dataclass(frozen=True, slots=True)
class Difference:
    """`allowed` and `denied` are what the rules permit now and what they no longer do; `sent_allowed` and
    `sent_denied` the same of what callers send, where the rules had nothing to do with it. In what is denied,
    the roles are turned round: `before` of a change is the new bundle. `entrances` holds those that differ in
    what they cannot serve, as they were (None: not there) and as they are."""

    revisions: tuple[str, str]
    allowed: tuple[Group, ...]
    denied: tuple[Group, ...]
    sent_allowed: tuple[SenderGroup, ...]
    sent_denied: tuple[SenderGroup, ...]
    entrances: tuple[tuple[Entrance | None, Entrance | None], ...]
    beside: tuple[Beside, ...]

    @property
    def newly_allows(self) -> bool:
        """Whether anything is allowed that was not: what a reviewer must answer for."""
        return bool(self.allowed or self.sent_allowed or any(one.loosens for one in self.beside))

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "old": self.revisions[0],
            "new": self.revisions[1],
            "newly_allows": self.newly_allows,
            "newly_allowed": [group_wire(group, turned=False) for group in self.allowed],
            "newly_allowed_of_what_callers_send": [
                sender_wire(one, turned=False) for one in self.sent_allowed
            ],
            "newly_denied": [group_wire(group, turned=True) for group in self.denied],
            "newly_denied_of_what_callers_send": [sender_wire(one, turned=True) for one in self.sent_denied],
            "entrances": [
                {"before": one and one.wire(), "after": other and other.wire()}
                for one, other in self.entrances
            ],
            "beside": [one.wire() for one in self.beside],
        }


def compare(old: Loaded, new: Loaded, old_files: Files, new_files: Files) -> Difference:
    """All that differs between two bundles. Their examples and claims are not run."""
    before, after = old.bundle, new.bundle
    return Difference(
        revisions=(before.revision, after.revision),
        allowed=gains(before, after),
        denied=gains(after, before),
        sent_allowed=sender_gains(before, after),
        sent_denied=sender_gains(after, before),
        entrances=differing_entrances(old, new),
        beside=changes(old, new, old_files, new_files),
    )


def differing_entrances(old: Loaded, new: Loaded) -> tuple[tuple[Entrance | None, Entrance | None], ...]:
    """Each gateway that differs, by name."""
    was, now = ({one.place: one for one in entrances_of(side.bundle)} for side in (old, new))
    return tuple(
        (was.get(place), now.get(place))
        for place in sorted(was.keys() | now.keys())
        if was.get(place) != now.get(place)
    )


def group_wire(group: Group, *, turned: bool) -> dict[str, Any]:
    return {
        "action": group.action.value,
        "places": list(group.places),
        "tenants": [who.tenant for who in group.whos if who.tenant],
        "zones": [who.zone for who in group.whos if not who.tenant],
        "purposes": list(group.purposes),
        "models": list(group.models),
        "labels_from": names(group.labels_from),
        "labels_to": names(group.labels_to),
        "smallest": change_wire(group.smallest, turned=turned),
    }


def change_wire(change: Change, *, turned: bool) -> dict[str, Any]:
    sides = [change.before.wire(), change.after.wire()]
    before, after = reversed(sides) if turned else sides
    return {
        "tenant": change.who.tenant or None,
        "zone": change.who.zone,
        "other_zone": change.zone_before,
        "purpose": change.purpose,
        "model": change.model,
        "labels": list(change.labels.names()),
        "place_moved": change.moved,
        "before": before,
        "after": after,
    }


def sender_wire(group: SenderGroup, *, turned: bool) -> dict[str, Any]:
    return {
        "tenant": group.tenant,
        "key": group.key or None,
        "sent": group.sent.value,
        "action": group.action.value,
        "places": list(group.places),
        "models": list(group.models),
        "declared_from": names(group.declared_from),
        "smallest": sender_change_wire(group.smallest, turned=turned),
    }


def sender_change_wire(change: SenderChange, *, turned: bool) -> dict[str, Any]:
    sides = [
        {**carried_wire(change.carried_before), "decided": change.before and change.before.wire()},
        {**carried_wire(change.carried_after), "decided": change.after.wire()},
    ]
    before, after = reversed(sides) if turned else sides
    return {
        "declared": None if change.declared is None else list(change.declared.names()),
        "model": change.asked,
        "before": before,
        "after": after,
    }


def carried_wire(carried: Carried) -> dict[str, Any]:
    return {
        "purpose": carried.purpose,
        "model": carried.model,
        "labels": list(carried.labels.names()),
        "refused": carried.refused,
    }


def names(several: tuple[Labels, ...]) -> list[list[str]]:
    return [list(labels.names()) for labels in several]
