"""`tenants.yaml`: who may call, from where, carrying what, and how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.facts import Caller, Limits
from gateway.labels import Labels, UnknownLabel, Vocabulary
from gateway.policy.bundle import Tenant
from gateway.policy.geography import Geography
from gateway.policy.problems import Problem, did_you_mean
from gateway.policy.source.check import Entry, Word, Words
from gateway.policy.source.document import Document, Path
from gateway.policy.source.zones import COUNTRY_HINTS

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class LabelsEntry(Entry):
    """`default` is what a request carries whose caller declares nothing; what a caller declares joins it and
    cannot lower it. Without a default, what nobody declared is taken for the ceiling. `always` joins every
    request without being such a declaration. Nothing above `ceiling` may be carried."""

    default: Words | None = None
    always: Words | None = None
    ceiling: Words | None = None


class KeyLabelsEntry(Entry):
    """As of the tenant; a key has no ceiling of its own."""

    default: Words | None = None
    always: Words | None = None


class LimitsEntry(Entry):
    """Bounds; what is left out is unbounded (a key: bounded by its tenant)."""

    requests_per_minute: Annotated[int | None, Field(ge=1)] = None
    tokens_per_minute: Annotated[int | None, Field(ge=1)] = None
    usd_per_day: Annotated[float | None, Field(gt=0)] = None
    max_concurrent: Annotated[int | None, Field(ge=1)] = None


class KeyEntry(Entry):
    """An API key, by its hash. `douane policy new-key` makes one."""

    id: Word
    sha256: Annotated[
        Sha256, Field(description="SHA-256 of the key, in hex; the key itself is written nowhere")
    ]
    purpose: str | None = None
    labels: KeyLabelsEntry | None = None
    limits: LimitsEntry | None = None
    models: Words | None = None


class TenantEntry(Entry):
    """A tenant: one legal person in one country."""

    id: Word
    zone: Annotated[str, Field(description="ISO 3166-1 alpha-2 country of the tenant")]
    purpose: str
    labels: LabelsEntry | None = None
    limits: LimitsEntry | None = None
    models: Words | None = None
    keys: list[KeyEntry] | None = None


class TenantsFile(Entry):
    """`tenants.yaml`"""

    tenants: Annotated[list[TenantEntry], Field(min_length=1)]


def build_tenants(
    document: Document,
    file: TenantsFile,
    vocabulary: Vocabulary,
    geography: Geography,
    models: frozenset[str],
) -> tuple[Mapping[str, Tenant], Mapping[str, tuple[str, str]], Mapping[str, Caller], list[Problem]]:
    """Tenants by id, (tenant, key) by key hash, callers by key hash."""
    reader = Reader(document, vocabulary, geography, models)
    tenants: dict[str, Tenant] = {}
    keys: dict[str, tuple[str, str]] = {}
    callers: dict[str, Caller] = {}
    for index, entry in enumerate(file.tenants):
        path: Path = ("tenants", index)
        if entry.id in tenants:
            reader.say((*path, "id"), f"`{entry.id}` is already a tenant", "give each tenant its own id")
            continue
        caller = reader.tenant(path, entry)
        tenants[entry.id] = Tenant(entry.id, entry.zone, caller)
        ids: set[str] = set()
        for number, key in enumerate(entry.keys or ()):
            at: Path = (*path, "keys", number)
            if key.id in ids:
                reader.say((*at, "id"), f"`{key.id}` is already a key of `{entry.id}`", "give it another id")
            if key.sha256 in keys:
                reader.say((*at, "sha256"), "this key hash is already in use", "make a key of its own")
            ids.add(key.id)
            keys[key.sha256] = (entry.id, key.id)
            callers[key.sha256] = reader.key(at, key, caller)
    return MappingProxyType(tenants), MappingProxyType(keys), MappingProxyType(callers), reader.problems


class Reader:
    """Turns entries into callers; collects what is wrong with them in `problems`."""

    def __init__(
        self, document: Document, vocabulary: Vocabulary, geography: Geography, models: frozenset[str]
    ) -> None:
        self.document = document
        self.vocabulary = vocabulary
        self.geography = geography
        self.models = models
        self.problems: list[Problem] = []

    def say(self, path: Path, message: str, hint: str) -> None:
        self.problems.append(self.document.problem(path, message, hint))

    def tenant(self, path: Path, entry: TenantEntry) -> Caller:
        """What a key of this tenant without wishes of its own may do."""
        if entry.zone not in self.geography.zones:
            near = COUNTRY_HINTS.get(entry.zone)
            hint = f"did you mean `{near}`?" if near else "write an ISO 3166-1 alpha-2 code such as `DE`"
            if entry.zone in self.geography.unions:
                hint = "a tenant is in one country; write that one, rules can still name the union"
            self.say((*path, "zone"), f"`{entry.zone}` is not a known ISO 3166 country", hint)
        self.word((*path, "purpose"), entry.purpose, self.vocabulary.purposes, "purpose")
        labels = entry.labels or LabelsEntry()
        at: Path = (*path, "labels")
        ceiling = self.labels((*at, "ceiling"), labels.ceiling) or self.vocabulary.highest
        default = self.labels((*at, "default"), labels.default)
        always = self.labels((*at, "always"), labels.always)
        self.below_each(at, {"default": default, "always": always}, ceiling)
        return Caller(
            tenant=entry.id,
            key_id="",
            zone=entry.zone,
            purpose=entry.purpose,
            # What nobody declared is taken for the worst that this tenant may carry.
            labels=default if default is not None else ceiling,
            floor=self.vocabulary.union(*(one for one in (default, always) if one is not None)),
            ceiling=ceiling,
            limits=limits_of(entry.limits),
            models=self.models_of((*path, "models"), entry.models),
        )

    def key(self, path: Path, entry: KeyEntry, tenant: Caller) -> Caller:
        """The caller with this key: a key can only narrow what its tenant may do."""
        if entry.purpose is not None:
            self.word((*path, "purpose"), entry.purpose, self.vocabulary.purposes, "purpose")
        labels = entry.labels or KeyLabelsEntry()
        at: Path = (*path, "labels")
        default = self.labels((*at, "default"), labels.default)
        always = self.labels((*at, "always"), labels.always)
        self.below_each(at, {"default": default, "always": always}, tenant.ceiling)
        models = self.models_of((*path, "models"), entry.models)
        if models is not None and tenant.models is not None and not models <= tenant.models:
            more = ", ".join(sorted(models - tenant.models))
            self.say(
                (*path, "models"), f"the tenant may not use `{more}`", "a key can only narrow; remove it"
            )
        return Caller(
            tenant=tenant.tenant,
            key_id=entry.id,
            zone=tenant.zone,
            purpose=entry.purpose or tenant.purpose,
            labels=default if default is not None else tenant.labels,
            floor=self.vocabulary.union(tenant.floor, *(one for one in (default, always) if one is not None)),
            ceiling=tenant.ceiling,
            limits=self.narrowed((*path, "limits"), limits_of(entry.limits), tenant.limits),
            models=models if models is not None else tenant.models,
        )

    def word(self, path: Path, word: str, known: Iterable[str], what: str) -> None:
        known = sorted(known)
        if word not in known:
            self.say(path, f"`{word}` is not a known {what}", did_you_mean(word, known))

    def labels(self, path: Path, names: list[str] | None) -> Labels | None:
        if names is None:
            return None
        try:
            return self.vocabulary.from_names(names)
        except UnknownLabel as error:
            hint = did_you_mean(error.label, error.known)
            self.say(path, f"`{error.label}` is not a label of this bundle", hint)
            return None

    def below_each(self, path: Path, given: Mapping[str, Labels | None], ceiling: Labels) -> None:
        for name, labels in given.items():
            if labels is not None:
                self.below((*path, name), labels, ceiling)

    def below(self, path: Path, labels: Labels, ceiling: Labels) -> None:
        if not self.vocabulary.within(labels, ceiling):
            above = f"`{', '.join(labels.names())}` lies above the ceiling `{', '.join(ceiling.names())}`"
            self.say(path, above, "raise the ceiling or lower these labels")

    def models_of(self, path: Path, names: list[str] | None) -> frozenset[str] | None:
        if names is None:
            return None
        for name in names:
            self.word(path, name, self.models, "model")
        return frozenset(names)

    def narrowed(self, path: Path, key: Limits, tenant: Limits) -> Limits:
        """The key's limits where it has some, else the tenant's."""
        values = {}
        for field in fields(Limits):
            own, whole = getattr(key, field.name), getattr(tenant, field.name)
            if own is not None and whole is not None and own > whole:
                message = f"`{field.name}` of the key, {own}, is above the tenant's {whole}"
                self.say((*path, field.name), message, "a key can only narrow; lower it")
            values[field.name] = own if own is not None else whole
        return Limits(**values)


def limits_of(entry: LimitsEntry | None) -> Limits:
    if entry is None:
        return Limits()
    return Limits(
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
        usd_per_day=entry.usd_per_day,
        max_concurrent=entry.max_concurrent,
    )
