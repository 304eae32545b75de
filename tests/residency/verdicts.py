"""What a bundle permits, read off its source: slow, obvious, and with no line of the gateway's own.

A source is what stands in the files, as plain dictionaries and lists. Every question goes through every rule
again, and every rule through every word; the answers are kept, for the same question is asked often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Source = Mapping[str, Any]  # file name to content; `residency` is the list of all rules

ABLE = {
    "engine": {"infer"}, "bedrock": {"infer"}, "openai": {"infer"}, "litellm": {"infer"},
    "gateway": {"infer"}, "redis": {"cache", "record"}, "memory": {"cache", "record"}, "audit": {"record"},
    "log": {"log", "record"}, "trace": {"log", "record"}, "metrics": {"record"},
}  # fmt: skip
NOTHING_SAYS_SO = "nothing"  # stands for a rule where none decides


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the rules see it. `labels` are the names of all that it surely carries."""

    tenant: str
    purpose: str
    model: str
    labels: frozenset[str]


@dataclass(slots=True)
class Verdicts:
    """The answers of one source. `decided` counts how often each rule has had the last word."""

    source: Source
    decided: dict[str, int] = field(default_factory=dict)
    _kept: dict[tuple[Asked, str, str], tuple[bool, str]] = field(default_factory=dict)
    _known: dict[Asked, bool] = field(default_factory=dict)

    def may(self, asked: Asked, action: str, place_id: str) -> bool:
        """Whether the action may happen to this request at the place of this id."""
        question = (asked, action, place_id)
        if question not in self._kept:
            self._kept[question] = self.think(asked, action, place_id)
        allowed, rule = self._kept[question]
        self.decided[rule] = self.decided.get(rule, 0) + 1
        return allowed

    def may_in_region(self, asked: Asked, region: str) -> bool:
        """Whether a model may read this request in this AWS region."""
        return any(
            self.may(asked, "infer", place["id"])
            for place in self.source["places.yaml"]["places"]
            if place.get("region") == region
        )

    def think(self, asked: Asked, action: str, place_id: str) -> tuple[bool, str]:
        place = next((p for p in self.source["places.yaml"]["places"] if p["id"] == place_id), None)
        if place is None or action not in ABLE[place["kind"]] or not self.known(asked):
            return False, NOTHING_SAYS_SO
        if action == "infer" and place["kind"] != "gateway" and asked.model not in place["models"]:
            return False, NOTHING_SAYS_SO
        if action in ("infer", "cache") and self.above_ceiling(asked):
            return False, NOTHING_SAYS_SO
        permitting = ""
        for rule in self.source["residency"]:
            effect = "permit" if "permit" in rule else "forbid"
            if action not in rule[effect] or not self.meets(rule.get("when", {}), asked, place):
                continue
            if "unless" in rule and self.meets(rule["unless"], asked, place):
                continue
            if effect == "forbid":
                return False, str(rule["id"])
            permitting = permitting or str(rule["id"])
        return bool(permitting), permitting or NOTHING_SAYS_SO

    def known(self, asked: Asked) -> bool:
        """Whether this source has every word of the request: it may be of another revision."""
        if asked not in self._known:
            words = self.source["bundle.yaml"]["vocabulary"]
            self._known[asked] = (
                any(tenant["id"] == asked.tenant for tenant in self.tenants())
                and asked.purpose in words["purposes"]
                and asked.labels <= {*words["sensitivity"], *words["categories"]}
            )
        return self._known[asked]

    def tenants(self) -> Iterator[Mapping[str, Any]]:
        yield from self.source["tenants.yaml"]["tenants"]

    def tenant(self, tenant_id: str) -> Mapping[str, Any]:
        return next(tenant for tenant in self.tenants() if tenant["id"] == tenant_id)

    def meets(self, condition: Mapping[str, Any], asked: Asked, place: Mapping[str, Any]) -> bool:
        """Whether every key of the condition holds."""
        return all(self.holds(key, words, asked, place) for key, words in condition.items())

    def holds(self, key: str, words: Any, asked: Asked, place: Mapping[str, Any]) -> bool:
        listed = [words] if isinstance(words, str) else list(words)
        if key == "tenant_in":
            zone = self.tenant(asked.tenant)["zone"]
            return any(word in (asked.tenant, zone, *self.unions_of(zone)) for word in listed)
        if key == "labels_any":
            return any(word in asked.labels for word in listed)
        if key == "labels_all":
            return all(word in asked.labels for word in listed)
        if key == "sensitivity_at_least":
            return self.rank(asked.labels) >= self.scale().index(words)
        if key == "purpose_in":
            return asked.purpose in listed
        if key == "model_in":
            return asked.model in listed
        if key == "place_in":
            country = self.country_of(place)
            return any(word in (place["id"], country, *self.unions_of(country)) for word in listed)
        if key == "operator_under":
            return any(word in self.operator_of(place)["regimes"] for word in listed)
        if key == "attested":
            has = [*self.operator_of(place)["attestations"], *place.get("attested", [])]
            return all(word in has for word in listed)
        raise AssertionError(f"the condition `{key}` is not known here")

    def scale(self) -> list[str]:
        scale: list[str] = self.source["bundle.yaml"]["vocabulary"]["sensitivity"]
        return scale

    def rank(self, labels: frozenset[str]) -> int:
        return max((self.scale().index(label) for label in labels if label in self.scale()), default=0)

    def unions_of(self, country: str) -> list[str]:
        unions = self.source["zones.yaml"]["unions"]
        return [union for union, about in unions.items() if country in about["members"]]

    def country_of(self, place: Mapping[str, Any]) -> str:
        if place["kind"] == "bedrock":
            return str(self.source["zones.yaml"]["regions"][place["region"]]["country"])
        return str(place["country"])

    def operator_of(self, place: Mapping[str, Any]) -> Mapping[str, Any]:
        zones = self.source["zones.yaml"]
        name = zones["partitions"]["aws"]["operator"] if place["kind"] == "bedrock" else place["operator"]
        operator: Mapping[str, Any] = zones["operators"][name]
        return operator

    def above_ceiling(self, asked: Asked) -> bool:
        """Whether it carries what its tenant may not carry at all."""
        ceiling = self.tenant(asked.tenant).get("labels", {}).get("ceiling")
        if ceiling is None:
            return False
        categories = asked.labels - set(self.scale())
        return self.rank(asked.labels) > self.rank(frozenset(ceiling)) or not categories <= set(ceiling)

    def said_of(self, tenant_id: str, key_id: str, header: str | None) -> frozenset[str]:
        """The labels of a request with this key and header, before anything that its conversation carried."""
        tenant = self.tenant(tenant_id)
        key = next(key for key in tenant["keys"] if key["id"] == key_id)
        written = [tenant.get("labels", {}), key.get("labels", {})]
        joined = {word for about in written for word in (*about.get("default", ()), *about.get("always", ()))}
        declared = [word.strip() for word in header.split(",")] if header is not None else []
        if not declared and not any("default" in about for about in written):
            words = self.source["bundle.yaml"]["vocabulary"]
            joined |= set(written[0].get("ceiling", [words["sensitivity"][-1], *words["categories"]]))
        return frozenset(joined | set(declared))
