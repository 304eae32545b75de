"""Planted bugs: one passage of a module replaced, and the module built again from the altered source."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from types import ModuleType

from gateway.policy import antitone, cedar, permit
from gateway.policy import compile as table


@dataclass(frozen=True, slots=True)
class Mutant:
    """`what` is wrong with it; `old` stands exactly once in the module's source."""

    what: str
    module: ModuleType
    old: str
    new: str

    def build(self) -> ModuleType:
        """The module with the bug; nothing that is imported elsewhere changes."""
        source = inspect.getsource(self.module)
        assert source.count(self.old) == 1, f"{source.count(self.old)} times {self.old!r}"
        name = f"{self.module.__name__}_with_a_bug"
        module = ModuleType(name)
        sys.modules[name] = module  # dataclasses look their own module up
        try:
            exec(compile(source.replace(self.old, self.new), f"<{self.what}>", "exec"), module.__dict__)
        finally:
            del sys.modules[name]
        return module


# Each is caught where the table that it makes, or the decision that it takes, differs from Cedar.
OF_THE_COMPILER = (
    Mutant("permit and forbid swapped", table, "if self.forbids & bit:", "if not self.forbids & bit:"),
    Mutant("forbids ignored", table, "return permitted & ~forbidden", "return permitted"),
    Mutant("forbids permit", table, "return permitted & ~forbidden", "return permitted | forbidden"),
    Mutant(
        "permit wins", table, "return permitted & ~forbidden", "return permitted & (~forbidden | permitted)"
    ),
    Mutant("only the first rule counts", table, "        while rest:", "        if rest:"),
    Mutant(
        "sensitivity off by one upwards",
        table,
        "rank >= vocabulary.rank(r.facts.sensitivity_at_least)",
        "rank > vocabulary.rank(r.facts.sensitivity_at_least)",
    ),
    Mutant(
        "sensitivity off by one downwards",
        table,
        "rank >= vocabulary.rank(r.facts.sensitivity_at_least)",
        "rank + 1 >= vocabulary.rank(r.facts.sensitivity_at_least)",
    ),
    Mutant(
        "sensitivity exactly instead of at least",
        table,
        "rank >= vocabulary.rank(r.facts.sensitivity_at_least)",
        "rank == vocabulary.rank(r.facts.sensitivity_at_least)",
    ),
    Mutant(
        "any label read as all",
        table,
        "not r.facts.labels_any.isdisjoint(labels.categories)",
        "r.facts.labels_any <= labels.categories",
    ),
    Mutant(
        "all labels read as any",
        table,
        "r.facts.labels_all <= labels.categories",
        "not r.facts.labels_all.isdisjoint(labels.categories)",
    ),
    Mutant("unless dropped", table, "if not rule.unless.empty:", "if False:"),
    Mutant(
        "unless read as when",
        table,
        "about &= ~condition_mask(rule.unless",
        "about &= condition_mask(rule.unless",
    ),
    Mutant(
        "when of a place dropped",
        table,
        "about = condition_mask(rule.place, places)",
        "about = (1 << len(places)) - 1",
    ),
    Mutant(
        "place ids ignored",
        table,
        "p.id in condition.place_in or bool(condition.place_in & p.zones)",
        "bool(condition.place_in & p.zones)",
    ),
    Mutant(
        "zones of a place ignored",
        table,
        "p.id in condition.place_in or bool(condition.place_in & p.zones)",
        "p.id in condition.place_in",
    ),
    Mutant(
        "unions of a place ignored",
        table,
        "p.id in condition.place_in or bool(condition.place_in & p.zones)",
        "p.id in condition.place_in or p.country in condition.place_in",
    ),
    Mutant(
        "any zone read as all",
        table,
        "p.id in condition.place_in or bool(condition.place_in & p.zones)",
        "condition.place_in <= p.zones | {p.id}",
    ),
    Mutant(
        "any regime read as all",
        table,
        "bool(condition.operator_under & p.regimes)",
        "condition.operator_under <= p.regimes",
    ),
    Mutant("regimes ignored", table, "if condition.operator_under is not None:", "if False:"),
    Mutant(
        "all attestations read as any",
        table,
        "condition.attested <= p.attestations",
        "bool(condition.attested & p.attestations)",
    ),
    Mutant("attestations ignored", table, "if condition.attested is not None:", "if False:"),
    Mutant(
        "tenant condition inverted",
        table,
        "not r.facts.tenant_in.isdisjoint(names)",
        "r.facts.tenant_in.isdisjoint(names)",
    ),
    Mutant("tenant condition ignored", table, "not r.facts.tenant_in.isdisjoint(names)", "True"),
    Mutant("tenant ids ignored", table, "by_zone[zone] | tenant_rules(rules, {tenant})", "by_zone[zone]"),
    Mutant("tenant's zone ignored", table, "by_zone[zone] | tenant_rules", "tenant_rules"),
    Mutant("unions of a tenant ignored", table, "{country} | unions)", "{country})"),
    Mutant("country of a tenant ignored", table, "{country} | unions)", "set(unions))"),
    Mutant(
        "purpose condition inverted",
        table,
        "purpose in r.facts.purpose_in for",
        "purpose not in r.facts.purpose_in for",
    ),
    Mutant("purpose condition ignored", table, "purpose in r.facts.purpose_in for", "True for"),
    Mutant(
        "model condition inverted",
        table,
        "model in r.facts.model_in for",
        "model not in r.facts.model_in for",
    ),
    Mutant(
        "an action forgotten", table, "cells(rule.actions, about", "cells(rule.actions - {Action.LOG}, about"
    ),
    Mutant("every action meant", table, "cells(rule.actions, about", "cells(ACTIONS, about"),
    Mutant(
        "models served ignored", table, "place.offers(action, model) and (", "action in place.actions and ("
    ),
    Mutant(
        "rules ignored", table, "self.named(allowed & self.usable[model])", "self.named(self.usable[model])"
    ),
    Mutant("gateways always open", table, "self.named(allowed & self.gateways)", "self.named(self.gateways)"),
    Mutant(
        "actions in another order",
        table,
        "(ACTIONS[action], self.place_ids[place])",
        "(ACTIONS[-action], self.place_ids[place])",
    ),
    Mutant(
        "highest sensitivity forgotten",
        table,
        "for sensitivity in vocabulary.scale:",
        "for sensitivity in vocabulary.scale[:-1]:",
    ),
    Mutant(
        "combinations of labels forgotten",
        table,
        "for count in range(len(names) + 1):",
        "for count in range(2):",
    ),
    Mutant(
        "outcomes of two classes mixed up",
        table,
        "key = (allowed & table.usable[model], allowed & table.gateways)",
        "key = (allowed & table.usable[model] & 1, allowed & table.gateways)",
    ),
    Mutant("labels not asked", permit, "            & table.labels[facts.labels]\n", ""),
    Mutant("purpose not asked", permit, "            & table.purposes[facts.purpose]\n", ""),
    Mutant("model not asked", permit, "            & table.models[facts.model]\n", ""),
    Mutant("entrances closed", permit, "and place_id in self.entrances)", "and False)"),
    Mutant("rules that do not apply decide", permit, "applying >> index & 1 and table.masks", "table.masks"),
    Mutant(
        "rules for other places decide", permit, "and table.masks[index] & cell:", "and table.masks[index]:"
    ),
    Mutant(
        "the first rule decides, not a forbid",
        permit,
        "first_permit = Verdict(True, rule.id, rule.basis)",
        "return Verdict(True, rule.id, rule.basis)",
    ),
    Mutant(
        "the last permit is named",
        permit,
        "return first_permit if first_permit is not None else",
        "return Verdict(True, table.rules[-1].id, None) if first_permit else",
    ),
)

# Each is caught where Cedar, with what it exports, differs from the table.
OF_THE_EXPORTER = (
    Mutant("any label read as all", cedar, "context.labels.containsAny(", "context.labels.containsAll("),
    Mutant("all labels read as any", cedar, "context.labels.containsAll(", "context.labels.containsAny("),
    Mutant("sensitivity off by one", cedar, "context.sensitivity >= {", "context.sensitivity > {"),
    Mutant("sensitivity exactly", cedar, "context.sensitivity >= {", "context.sensitivity == {"),
    Mutant(
        "scale counted from one",
        cedar,
        "{vocabulary.rank(facts.sensitivity_at_least)}",
        "{vocabulary.rank(facts.sensitivity_at_least) + 1}",
    ),
    Mutant("unless dropped", cedar, "if not rule.unless.empty:", "if False:"),
    Mutant(
        "unless written as when",
        cedar,
        "f\"unless {{ {' && '.join(place_conditions(rule.unless))} }}\"",
        "f\"when {{ {' && '.join(place_conditions(rule.unless))} }}\"",
    ),
    Mutant(
        "unless joined by or",
        cedar,
        "' && '.join(place_conditions(rule.unless))",
        "' || '.join(place_conditions(rule.unless))",
    ),
    Mutant("when joined by or", cedar, "' && '.join(conditions)", "' || '.join(conditions)"),
    Mutant("when dropped", cedar, "    if conditions:\n", "    if False:\n"),
    Mutant(
        "effects swapped",
        cedar,
        '"forbid" if rule.effect is Effect.FORBID else "permit"',
        '"permit" if rule.effect is Effect.FORBID else "forbid"',
    ),
    Mutant(
        "an action forgotten",
        cedar,
        "for action in Action if action in rule.actions)",
        "for action in Action if action in rule.actions and action is not Action.LOG)",
    ),
    Mutant(
        "every action meant",
        cedar,
        "for action in Action if action in rule.actions)",
        "for action in Action)",
    ),
    Mutant("any regime read as all", cedar, "resource.regimes.containsAny(", "resource.regimes.containsAll("),
    Mutant(
        "all attestations read as any",
        cedar,
        "resource.attestations.containsAll(",
        "resource.attestations.containsAny(",
    ),
    Mutant("places forgotten in when", cedar, "    conditions += place_conditions(rule.place)\n", ""),
    Mutant("tenants forgotten", cedar, "    if facts.tenant_in is not None:\n", "    if False:\n"),
    Mutant("purposes forgotten", cedar, "    if facts.purpose_in is not None:\n", "    if False:\n"),
    Mutant("models forgotten", cedar, "    if facts.model_in is not None:\n", "    if False:\n"),
    Mutant(
        "things beside zones forgotten",
        cedar,
        "for found in (zones, things) if found]",
        "for found in (zones or things,)]",
    ),
    Mutant("union membership forgotten", cedar, '[uid("Zone", union) for union in sorted(unions)]', "[]"),
    Mutant(
        "tenants outside their country",
        cedar,
        '"attrs": {}, "parents": [uid("Zone", country)]',
        '"attrs": {}, "parents": []',
    ),
    Mutant("places outside their country", cedar, '"parents": [uid("Zone", place.country)]', '"parents": []'),
    Mutant(
        "every backend serves every model",
        cedar,
        "    policies += [*offered(), served()]\n",
        "    policies += offered()\n",
    ),
    Mutant(
        "every place does everything",
        cedar,
        "    policies += [*offered(), served()]\n",
        "    policies += [served()]\n",
    ),
    Mutant("gateways serve nothing", cedar, "json.dumps(GATEWAY_KIND)} || ", "json.dumps(GATEWAY_KIND)} && "),
    Mutant("models of places left out", cedar, "sorted(place.models)", "[]"),
    Mutant("the last rule forgotten", cedar, "for rule in bundle.rules]", "for rule in bundle.rules[:-1]]"),
    Mutant("the first rule forgotten", cedar, "for rule in bundle.rules]", "for rule in bundle.rules[1:]]"),
    Mutant(
        "two rules under one id", cedar, 'f"@id({json.dumps(rule.id)})"', 'f"@id({json.dumps(rule.id[:6])})"'
    ),
)

# Each is caught where a bundle that breaks antitony is let through, or a good one is not.
OF_THE_PROOF = (
    Mutant(
        "looks at forbids instead of permits", antitone, "before & ~table.forbids:", "before & table.forbids:"
    ),
    Mutant(
        "looks for what is lost",
        antitone,
        "table.allowed(rest & after) & ~table.allowed(rest & before)",
        "table.allowed(rest & before) & ~table.allowed(rest & after)",
    ),
    Mutant(
        "forgets the highest sensitivity",
        antitone,
        "if rank + 1 < len(vocabulary.scale):",
        "if rank + 2 < len(vocabulary.scale):",
    ),
    Mutant("never raises the sensitivity", antitone, "if rank + 1 < len(vocabulary.scale):", "if False:"),
    Mutant(
        "never adds a category",
        antitone,
        "sorted(vocabulary.categories - fewer.categories)",
        "sorted(vocabulary.categories & fewer.categories)",
    ),
    Mutant(
        "starts from no category only",
        antitone,
        "for category in sorted(",
        "for category in () if fewer.categories else sorted(",
    ),
    Mutant("ignores other rules", antitone, "~table.allowed(rest & before)", "~0"),
    Mutant(
        "ignores tenants, purposes and models", antitone, "tenant & of_purpose & of_model, (zone", "0, (zone"
    ),
    Mutant(
        "ignores purposes",
        antitone,
        "tenant & of_purpose & of_model, (zone",
        "tenant & of_model & ((1 << 99) - 1 if purpose == 'general' else 0), (zone",
    ),
)
