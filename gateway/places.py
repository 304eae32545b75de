"""Where a request, a copy of it, or a record of it can land."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import Final, Literal

Source = Literal["derived", "declared"]
IpNetwork = IPv4Network | IPv6Network


class Action(StrEnum):
    """What may be done with a request at a place.

    `infer` a model reads it. `cache` a copy is kept. `log` content is written down. `record` metadata alone
    is written down.
    """

    INFER = "infer"
    CACHE = "cache"
    LOG = "log"
    RECORD = "record"


BACKEND_KINDS: Final = frozenset({"engine", "bedrock", "openai", "litellm"})
GATEWAY_KIND: Final = "gateway"

# What a place of a kind is able to do at all; a rule cannot make an audit file answer a prompt.
ACTIONS_OF_KIND: Final[Mapping[str, frozenset[Action]]] = MappingProxyType(
    {
        "engine": frozenset({Action.INFER}),
        "bedrock": frozenset({Action.INFER}),
        "openai": frozenset({Action.INFER}),
        "litellm": frozenset({Action.INFER}),
        "gateway": frozenset({Action.INFER}),
        "redis": frozenset({Action.CACHE, Action.RECORD}),
        "memory": frozenset({Action.CACHE, Action.RECORD}),
        "audit": frozenset({Action.RECORD}),
        "log": frozenset({Action.LOG, Action.RECORD}),
        "trace": frozenset({Action.LOG, Action.RECORD}),
        "metrics": frozenset({Action.RECORD}),
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """One backend or sink, with where it is and under whose law.

    `models` maps a canonical model name to the id that the backend knows it by; empty for sinks.
    `zones` holds the country and every union it is in. `source` says whether the place follows from the
    host that is signed for (`derived`) or was written down by the operator (`declared`). `private_range`
    holds the networks that every address of its host must be in; empty where none is declared.
    """

    id: str
    kind: str
    models: Mapping[str, str]
    region: str | None
    partition: str | None
    country: str
    zones: frozenset[str]
    operator: str
    regimes: frozenset[str]
    attestations: frozenset[str]
    source: Source
    host: str | None
    private_range: tuple[IpNetwork, ...] = ()

    @property
    def actions(self) -> frozenset[Action]:
        """What a place of this kind can do at all."""
        return ACTIONS_OF_KIND[self.kind]

    def offers(self, action: Action, model: str) -> bool:
        """Whether this place could do `action` for `model` if every rule allowed it.

        A gateway passes every model on; a backend infers only with the models that it serves.
        """
        if action not in self.actions:
            return False
        return action is not Action.INFER or self.kind == GATEWAY_KIND or model in self.models
