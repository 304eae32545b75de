"""Proves that more labels never permit more, over every class; finds the smallest witness when they do.

A path from fewer to more labels is made of single steps: one category more, or one word up the scale. Forbids
only ever gain along a step, because every condition on labels, once it holds, holds for more labels too
(this is checked, not assumed). So a step can permit more only where a permit begins to apply, and only those
steps are held against every tenant, purpose and model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.labels import Labels, Vocabulary
from gateway.places import Action
from gateway.policy.compile import Table


@dataclass(frozen=True, slots=True)
class Witness:
    """Two label sets, `fewer` below `more`, where `more` may do `action` at `place` and `fewer` may not.

    `rule` is the permit that begins to apply.
    """

    fewer: Labels
    more: Labels
    place: str
    action: Action
    rule: str
    file: str
    line: int
    example: tuple[str, str, str]  # tenant's country, purpose, model

    def text(self) -> str:
        zone, purpose, model = self.example
        fewer, more = ", ".join(self.fewer.names()), ", ".join(self.more.names())
        return (
            f"`{self.rule}` permits `{self.action}` at `{self.place}` for labels `{more}`, "
            f"but nothing does for the fewer labels `{fewer}` "
            f"(tenant in `{zone}`, purpose `{purpose}`, model `{model}`)"
        )


def find_witness(table: Table, vocabulary: Vocabulary) -> Witness | None:
    """The smallest violation: the fewest labels, then the lowest sensitivity. None when there is none.

    A tenant that is named by id counts by what the rules see of it, so one example stands for all like it.
    """
    rests: dict[int, tuple[str, str, str]] = {}
    tenants = first_of_each([(mask, zone) for (_, zone), mask in table.tenants.items()])
    tenants = tenants | first_of_each([(mask, zone) for zone, mask in table.zones.items()])
    purposes = first_of_each([(mask, purpose) for purpose, mask in table.purposes.items()])
    models = first_of_each([(mask, model) for model, mask in table.models.items()])
    for (tenant, zone), (of_purpose, purpose), (of_model, model) in itertools.product(
        tenants.items(), purposes.items(), models.items()
    ):
        rests.setdefault(tenant & of_purpose & of_model, (zone, purpose, model))
    seen: set[tuple[int, int]] = set()
    for fewer, more in steps(table, vocabulary):
        before, after = table.labels[fewer], table.labels[more]
        if before & ~after:
            raise AssertionError("a condition on labels ceased to hold for more labels")
        if (before, after) in seen or not after & ~before & ~table.forbids:
            continue
        seen.add((before, after))
        for rest, example in rests.items():
            gained = table.allowed(rest & after) & ~table.allowed(rest & before)
            if gained:
                (action, place), *_ = table.named(gained)
                cell = table.cell(action, place)
                rule = next(
                    rule
                    for index, rule in enumerate(table.rules)
                    if (rest & after & ~before) >> index & 1 and table.masks[index] & cell
                )
                return Witness(fewer, more, place, action, rule.id, rule.file, rule.line, example)
    return None


def first_of_each(pairs: Iterable[tuple[int, str]]) -> dict[int, str]:
    """One example for each rule set: the first."""
    found: dict[int, str] = {}
    for mask, name in pairs:
        found.setdefault(mask, name)
    return found


def steps(table: Table, vocabulary: Vocabulary) -> Iterator[tuple[Labels, Labels]]:
    """Every pair of labels of which the second has one category or one word of sensitivity more."""
    for fewer in sorted(
        table.labels, key=lambda one: (len(one.categories), vocabulary.rank(one.sensitivity))
    ):
        rank = vocabulary.rank(fewer.sensitivity)
        if rank + 1 < len(vocabulary.scale):
            yield fewer, Labels(vocabulary.scale[rank + 1], fewer.categories)
        for category in sorted(vocabulary.categories - fewer.categories):
            yield fewer, Labels(fewer.sensitivity, fewer.categories | {category})
