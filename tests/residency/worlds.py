"""Generated worlds: a few revisions of a made-up bundle, and what is asked of a gateway under them.

Everything follows from a seed. A world is plain data, so that a failing one can be made smaller and told.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.residency.geography import ATTESTATIONS, COUNTRIES, MODELS, REGIMES, REGIONS, UNIONS, zones_file

Content = dict[str, Any]

SCALE = ["public", "internal", "secret"]
CATEGORIES = ["financial", "health", "personal"]
PURPOSES = ["care", "general"]
ZONES = [*COUNTRIES, *UNIONS]
CLOUDS = ("cloud-1", "cloud-2", "cloud-3", "cloud-4")
SERVERS = ("local-engine", "server-1", "server-2")
BACKENDS = (*SERVERS, *CLOUDS)
GATEWAY, TERMINATOR, STORE, AUDIT = "gateway", "edge", "store-memory", "audit-files"
LOGS = "logs"  # where the content log stands
OWN = (GATEWAY, TERMINATOR, STORE, AUDIT)  # what every request meets, whoever answers it
ACTIONS = ("infer", "cache", "log", "record")

# What an upstream does with one try. Words of a stream that are sent before a break count from 0.
FAULTS = (
    "failed", "throttled", "full", "loading", "timed out", "cut", "cut later", "garbage", "denied",
    "invalid", "redirected", "too long", "withheld", "slow",
)  # fmt: skip
RETRIED = ("failed", "throttled", "cut", "garbage")
PASSED_ON = (*RETRIED, *["full"] * 4, "loading", "timed out", *["too long"] * 6, *["withheld"] * 6)
HEDGE_AFTER_S = 0.25


@dataclass(frozen=True, slots=True)
class Step:
    """One request and all that happens around it.

    `script` is what upstreams do with its tries, in order; after its end they answer. `swap_at` names the
    moment in its life at which the next revision comes into force. `again`: the same words as the step of
    that number, of any conversation. `forgotten`: another worker takes it, which remembers no labels.
    """

    tenant: str
    key: str
    model: str
    labels: str | None
    conversation: int
    session: bool
    stream: bool
    again: int | None = None
    script: tuple[str, ...] = ()
    swap_at: str | None = None
    waiting: tuple[str, ...] = ()
    forgotten: bool = False
    store: str = "up"  # `up`, `out` while it lasts, or `lost`: back, and empty
    audit: str = "up"  # `up`, `out`, or `out after begin`
    wait_s: float = 0.0
    together: bool = False  # with the step before it, at the same time


@dataclass(frozen=True, slots=True)
class World:
    """Revisions of a bundle, by number, and the steps under them; the first revision is in force first."""

    seed: str
    revisions: tuple[Content, ...]
    steps: tuple[Step, ...]


def files_of(content: Content, serial: int) -> dict[str, bytes]:
    """The files of a bundle. JSON is YAML."""
    bundle = {**content["bundle.yaml"], "serial": serial}
    files = {name: json.dumps(part).encode() for name, part in content.items() if name.endswith(".yaml")}
    return files | {
        "bundle.yaml": json.dumps(bundle).encode(),
        "residency/all.yaml": json.dumps(content["residency"]).encode(),
    }


@dataclass(frozen=True, slots=True)
class Weights:
    """What a family of worlds is about: the chance of each thing, by name; others stand as in `USUAL`."""

    of: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.of.get(name, USUAL[name])


USUAL = {
    "swap": 0.3, "fault": 0.7, "stream": 0.25, "again": 0.25, "forgotten": 0.3, "out": 0.03, "lost": 0.01,
    "audit out": 0.05, "full": 0.4, "together": 0.3, "labelled": 0.75, "own places abroad": 0.07,
    "longer": 0.45, "moved": 0.3, "closed": 0.1, "early": 0.0, "hedging": 0.45, "slow": 0.55,
}  # fmt: skip


@dataclass(slots=True)
class Maker:
    """Makes one world from one source of chance."""

    chance: random.Random
    weights: Weights
    hedging: bool = False  # whether the routes of this world hedge

    def happens(self, name: str) -> bool:
        return self.chance.random() < self.weights[name]

    def one(self, words: Any) -> Any:
        return self.chance.choice(list(words))

    def some(self, words: Any, most: int = 2) -> list[Any]:
        words = list(words)
        return self.chance.sample(words, self.chance.randint(1, min(most, len(words))))

    # Bundles.

    def first(self) -> Content:
        return {
            "bundle.yaml": {
                "apiVersion": "douane/v1",
                "serial": 1,
                "vocabulary": {"sensitivity": SCALE, "categories": CATEGORIES, "purposes": PURPOSES},
            },
            "zones.yaml": zones_file(),
            "places.yaml": {"places": self.places()},
            "tenants.yaml": {"tenants": self.tenants()},
            "routes.yaml": self.routes(),
            "residency": self.rules(),
        }

    def places(self) -> list[Content]:
        kinds = {GATEWAY: "gateway", TERMINATOR: "gateway", STORE: "memory", AUDIT: "audit"}
        sinks = {LOGS: "log", "traces": "trace", "metrics": "metrics"}
        places: list[Content] = []
        for place, kind in {**kinds, **sinks, "local-engine": "engine"}.items():
            if self.happens("own places abroad"):
                places.append({"id": place, "kind": kind, **self.anywhere()})
            else:
                premises = ["on-premises"]
                places.append(
                    {"id": place, "kind": kind, "country": "DE", "operator": "self", "attested": premises}
                )
        for server in SERVERS[1:]:
            places.append({"id": server, "kind": "openai", **self.anywhere()})
        regions = self.chance.sample(sorted(REGIONS), len(CLOUDS))
        for cloud, region in zip(CLOUDS, regions, strict=True):
            places.append({"id": cloud, "kind": "bedrock", "region": region})
        for entry in places:
            if entry["id"] in BACKENDS:
                entry["models"] = self.models(entry["kind"])
        return places

    def anywhere(self) -> Content:
        operator = self.one(["self", "self", "hoster", "overseas", "aws"])
        place: Content = {"country": self.one(COUNTRIES), "operator": operator}
        attested = [word for word in ATTESTATIONS if self.chance.random() < 0.4]
        if operator != "self":
            attested = [word for word in attested if word != "on-premises"]
        return place | ({"attested": attested} if attested else {})

    def models(self, kind: str) -> dict[str, str]:
        served = sorted(MODELS) if self.chance.random() < 0.8 else [self.one(MODELS)]
        return {model: MODELS[model] if kind == "bedrock" else model for model in served}

    def tenants(self) -> list[dict[str, Any]]:
        tenants = []
        for number, zone in enumerate(self.chance.sample(COUNTRIES, 3)):
            tenant = f"tenant-{number}"
            keys: list[Content] = [{"id": "plain", "sha256": key_hash(tenant, "plain")}]
            always = {"always": [self.one(CATEGORIES)]}
            keys.append({"id": "marked", "sha256": key_hash(tenant, "marked"), "labels": always})
            keys[-1]["purpose"] = self.one(PURPOSES)
            entry: Content = {"id": tenant, "zone": zone, "purpose": self.one(PURPOSES), "keys": keys}
            labels: dict[str, Any] = {}
            if self.chance.random() < 0.85:
                labels["default"] = [self.one(["public", "public", "internal"])]
            if self.chance.random() < 0.25:
                labels["ceiling"] = ["internal", *CATEGORIES]
            if labels:
                entry["labels"] = labels
            tenants.append(entry)
        return tenants

    def routes(self) -> dict[str, Any]:
        routes = []
        if self.chance.random() < 0.4:
            routes.append({**self.route("for-some"), "tenant_in": self.some(ZONES)})
        return {"routes": [*routes, self.route("for-all")]}

    def route(self, name: str) -> dict[str, Any]:
        places = self.chance.sample(BACKENDS, len(BACKENDS))
        tiers: list[list[dict[str, Any]]] = []
        for place in places:
            hop: dict[str, Any] = {"place": place}
            if self.chance.random() < 0.5:
                hop["spill_when_waiting_over"] = self.one([0, 3])
            if tiers and self.chance.random() < 0.4:
                tiers[-1].append(hop)
            else:
                tiers.append([hop])
        route = {
            "id": name,
            "models": sorted(MODELS),
            "tiers": tiers,
            "attempts_max": self.one([3, 4, 6]),
            "first_byte_timeout_s": 60,
            "total_timeout_s": 120,
        }
        if self.hedging:
            route["hedge_after_s"] = HEDGE_AFTER_S
        for option in ("on_context_window", "on_content_filter"):
            if self.chance.random() < 0.8:
                route[option] = "next"
        return route

    def rules(self) -> list[dict[str, Any]]:
        permits = [{"permit": list(ACTIONS), "when": {"attested": "on-premises"}}]
        permits += [self.permit() for _ in range(self.chance.randint(2, 5))]
        if self.chance.random() < 0.75:
            permits.append({"permit": self.one([["infer"], ["infer", "record"], list(ACTIONS)])})
        forbids = [self.forbid() for _ in range(self.chance.randint(2, 6))]
        rules = self.chance.sample([*permits, *forbids], len(permits) + len(forbids))
        return [{"id": f"rule-{number}", **rule} for number, rule in enumerate(rules)]

    def permit(self) -> dict[str, Any]:
        conditions = ("tenant_in", "purpose_in", "model_in", *PLACE_CONDITIONS, *PLACE_CONDITIONS)
        rule: dict[str, Any] = {"permit": self.actions(), "when": self.condition(conditions)}
        if self.chance.random() < 0.6:
            rule["unless"] = self.condition(PLACE_CONDITIONS)
        return rule

    def forbid(self) -> dict[str, Any]:
        conditions = (*FACT_CONDITIONS, *LABEL_CONDITIONS, *PLACE_CONDITIONS)
        rule: dict[str, Any] = {"forbid": self.actions(), "when": self.condition(conditions)}
        if self.chance.random() < 0.45:
            rule["unless"] = {"attested": ["on-premises"]}  # as whoever means to serve the request would
        elif self.chance.random() < 0.6:
            rule["unless"] = self.condition(PLACE_CONDITIONS)
        return rule

    def actions(self) -> list[str]:
        if self.chance.random() < 0.5:
            return ["infer", "cache"]
        return self.some(ACTIONS, 3)

    def condition(self, keys: Any) -> dict[str, Any]:
        chosen = dict.fromkeys(self.some(keys, 2 if self.chance.random() < 0.4 else 1))
        words: dict[str, Callable[[], Any]] = {
            "tenant_in": lambda: self.some([*ZONES, *ZONES, "tenant-0", "tenant-1"], 3),
            "labels_any": lambda: self.some(CATEGORIES),
            "labels_all": lambda: self.some(CATEGORIES),
            "sensitivity_at_least": lambda: self.one(SCALE[1:]),
            "purpose_in": lambda: [self.one(PURPOSES)],
            "model_in": lambda: [self.one(MODELS)],
            "place_in": lambda: self.some([*ZONES, *ZONES, *BACKENDS, STORE], 3),
            "operator_under": lambda: [self.one(REGIMES)],
            "attested": lambda: self.some(ATTESTATIONS),
        }
        return {key: words[key]() for key in chosen}

    # Later revisions: each alters the one before it in one respect.

    def next(self, before: Content) -> Content:
        after = copy.deepcopy(before)
        if self.happens("moved"):
            self.move(after)
        elif self.happens("closed"):
            self.keep_no_copies(after)
        else:
            self.one([self.forbid_more, self.forbid_a_place, self.lose_a_permit, self.leave_a_union,
                      self.remove_a_place, self.permit_more, self.keep_no_copies])(after)  # fmt: skip
        return after

    def move(self, content: Content) -> None:
        """Names of clouds now lead elsewhere."""
        clouds = [place for place in content["places.yaml"]["places"] if place["kind"] == "bedrock"]
        regions = self.chance.sample(sorted(REGIONS), len(clouds))
        for place, region in zip(clouds, regions, strict=True):
            place["region"] = region

    def add(self, content: Content, rule: dict[str, Any]) -> None:
        serial = 1 + max(int(known["id"].removeprefix("rule-")) for known in content["residency"])
        content["residency"].insert(0, {"id": f"rule-{serial}", **rule})

    def forbid_more(self, content: Content) -> None:
        self.add(content, self.forbid())

    def forbid_a_place(self, content: Content) -> None:
        self.add(content, {"forbid": ["infer"], "when": {"place_in": self.some(BACKENDS, 3)}})

    def keep_no_copies(self, content: Content) -> None:
        self.add(
            content, {"forbid": self.one([["cache"], ["cache", "record"]]), "when": {"place_in": [STORE]}}
        )

    def lose_a_permit(self, content: Content) -> None:
        permits = [rule for rule in content["residency"] if "permit" in rule]
        if len(permits) > 1:
            content["residency"].remove(self.one(permits))

    def permit_more(self, content: Content) -> None:
        forbids = [rule for rule in content["residency"] if "forbid" in rule]
        for rule in forbids[: self.chance.randint(1, 3)]:
            content["residency"].remove(rule)
        self.add(content, {"permit": list(ACTIONS)})

    def leave_a_union(self, content: Content) -> None:
        union = content["zones.yaml"]["unions"][self.one(UNIONS)]
        if len(union["members"]) > 1:
            union["members"].remove(self.one(union["members"]))

    def remove_a_place(self, content: Content) -> None:
        gone = self.one(CLOUDS)
        places = content["places.yaml"]["places"]
        kept = [place for place in places if place["id"] != gone]
        if len(kept) == len(places) or any(names(rule, gone) for rule in content["residency"]):
            return self.forbid_a_place(content)
        served = {model for place in kept for model in place.get("models", ())}
        if not served >= set(MODELS):
            return None
        content["places.yaml"]["places"] = kept
        for route in content["routes.yaml"]["routes"]:
            tiers = [[hop for hop in tier if hop["place"] != gone] for tier in route["tiers"]]
            route["tiers"] = [tier for tier in tiers if tier]
        return None

    # Requests.

    def steps(self, content: Content, count: int) -> tuple[Step, ...]:
        tenants = [tenant["id"] for tenant in content["tenants.yaml"]["tenants"]]
        owners: list[tuple[str, str, bool]] = []  # of each conversation
        steps: list[Step] = []
        for number in range(count):
            again = self.one(range(number)) if number and self.happens("again") else None
            if again is not None:
                owner = (steps[again].tenant, steps[again].key, steps[again].session)
                conversation = steps[again].conversation
            elif owners and self.happens("longer"):
                conversation = self.chance.randrange(len(owners))
                owner = owners[conversation]
            else:
                conversation = len(owners)
                owner = (
                    self.one(tenants),
                    self.one(["plain", "plain", "marked"]),
                    self.chance.random() < 0.4,
                )
                owners.append(owner)
            # With two calls at once for one request, only one request at a time: else nobody could tell what
            # was in force when the second call began.
            alone = self.hedging or number == 0
            together = not alone and self.happens("together") and not any(
                one.conversation == conversation for one in self.wave(steps)
            )  # fmt: skip
            steps.append(
                Step(
                    *owner[:2],
                    model=steps[again].model if again is not None else self.one(MODELS),
                    labels=self.again_labels(steps, again),
                    conversation=conversation,
                    session=owner[2],
                    stream=self.happens("stream"),
                    again=again,
                    script=self.script(),
                    swap_at=self.moment() if self.happens("swap") else None,
                    waiting=tuple(self.some(BACKENDS, 3)) if self.happens("full") else (),
                    forgotten=self.happens("forgotten"),
                    store="out" if self.happens("out") else "lost" if self.happens("lost") else "up",
                    audit=self.one(["out", "out after begin"]) if self.happens("audit out") else "up",
                    wait_s=self.one([0, 0.5, 3, 40]),
                    together=together,
                )
            )
        return tuple(steps)

    def moment(self) -> str:
        return str(self.one(MOMENTS[:3] if self.happens("early") else MOMENTS))

    def wave(self, steps: list[Step]) -> list[Step]:
        """The steps at the end that are under way at the same time."""
        first = max((number for number, one in enumerate(steps) if not one.together), default=0)
        return steps[first:]

    def again_labels(self, steps: list[Step], again: int | None) -> str | None:
        if again is not None and self.chance.random() < 0.8:
            return steps[again].labels
        if not self.happens("labelled"):
            return None
        words = [self.one(["public", "public", "internal", "secret"])]
        words += [name for name in CATEGORIES if self.chance.random() < 0.25]
        return ", ".join(words)

    def script(self) -> tuple[str, ...]:
        """Mostly nothing goes wrong; else a few things in a row, so that several places are tried."""
        if not self.happens("fault"):
            return ("cut later",) if self.chance.random() < 0.4 else ()
        faults = [self.one(PASSED_ON if self.chance.random() < 0.85 else FAULTS)]
        if self.hedging and self.happens("slow"):
            faults[:0] = ["slow"] * self.one([1, 1, 2])
        while self.chance.random() < 0.5 and len(faults) < 5:
            again = faults[-1] in RETRIED and self.chance.random() < 0.5
            faults.append(faults[-1] if again else self.one(PASSED_ON))
        return tuple(faults)


FACT_CONDITIONS = ("tenant_in", "purpose_in", "model_in")
LABEL_CONDITIONS = ("labels_any", "labels_all", "sensitivity_at_least")
PLACE_CONDITIONS = ("place_in", "operator_under", "attested")
MOMENTS = ("entered", "begun", "begun", "try 1", "try 1", "try 1", "try 2", "ended")


def names(rule: Content, place: str) -> bool:
    """Whether a rule names this place."""
    return any(place in rule.get(part, {}).get("place_in", ()) for part in ("when", "unless"))


def api_key(tenant: str, key: str) -> str:
    return f"sk-{tenant}-{key}"


def key_hash(tenant: str, key: str) -> str:
    return hashlib.sha256(api_key(tenant, key).encode()).hexdigest()


def make_world(seed: str, steps: int, weights: Weights | None = None) -> World:
    """The world of this seed."""
    maker = Maker(random.Random(seed), weights or Weights())
    maker.hedging = maker.happens("hedging")
    revisions = [maker.first()]
    for _ in range(3):
        # Most alter the first one: if each took more from the one before, little would be left at the end.
        # One that has lost a place is not gone on from: a new rule could name that place.
        first, last = revisions[0], revisions[-1]
        whole = len(last["places.yaml"]["places"]) == len(first["places.yaml"]["places"])
        revisions.append(maker.next(first if maker.chance.random() < 0.7 or not whole else last))
    return World(seed, tuple(revisions), maker.steps(revisions[0], steps))
