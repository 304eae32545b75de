"""What tokens cost, per place and model: litellm's price map as data, under an overlay per AWS region.

The map is read by path from the installed package, which is never imported here. Without the package the
overlay alone holds; a model that neither knows has no price, and says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, Field

from gateway.backends.base import Usage
from gateway.places import Place

MAP_FILE: Final = "model_prices_and_context_window_backup.json"
OVERLAY: Final = Path(__file__).with_name("prices.yaml")
BASE_REGION: Final = "us-east-1"
TOKENS_PER_PRICE: Final = 1_000_000
SELF: Final = "self"  # the operator of hardware that is paid for whether or not it is used


class UnknownPrice(Exception):
    """No price is known for a model at a place; the text says where to write one."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per token. `assumed` when it is another region's price; `source` says where it was read."""

    input_usd: float
    output_usd: float
    source: str
    assumed: bool = False


FREE: Final = Price(0.0, 0.0, "own hardware", assumed=False)


class PriceEntry(BaseModel):
    """One price of the overlay, in USD per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    source: str = Field(min_length=1)

    def price(self) -> Price:
        return Price(self.input / TOKENS_PER_PRICE, self.output / TOKENS_PER_PRICE, self.source)


class Overlay(BaseModel):
    """The file `prices.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    apiVersion: Literal["douane.dev/v1"]  # noqa: N815 (the file's own word)
    currency: Literal["USD"]
    regions: Mapping[str, Mapping[str, PriceEntry]]


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by what is asked for; `configured` (by place id) wins over everything."""

    overlay: Mapping[str, Mapping[str, Price]]
    listed: Mapping[str, Price]
    configured: Mapping[str, Price]

    @classmethod
    def load(
        cls,
        *,
        overlay: Path = OVERLAY,
        price_map: Path | None = None,
        configured: Mapping[str, Price] | None = None,
    ) -> Prices:
        """Reads both files. Raises pydantic's ValidationError for an overlay with an unknown key or value."""
        entries = Overlay.model_validate(yaml.safe_load(overlay.read_bytes()))
        path = price_map or installed_price_map()
        return cls(
            overlay=MappingProxyType(
                {
                    region: {model: entry.price() for model, entry in models.items()}
                    for region, models in entries.regions.items()
                }
            ),
            listed=MappingProxyType(read_price_map(path) if path else {}),
            configured=MappingProxyType(dict(configured or {})),
        )

    def price(self, place: Place, model: str) -> Price:
        """The price of a canonical model at a place. Raises UnknownPrice."""
        if own := self.configured.get(place.id):
            return own
        if place.kind == "engine" or place.operator == SELF:
            return FREE
        if place.kind == "bedrock":
            return self._regional(place, model)
        upstream = place.models.get(model, model)
        if listed := self.listed.get(upstream):
            return listed
        raise UnknownPrice(
            f"no price is known for `{upstream}` at place `{place.id}`; configure one for the place"
        )

    def _regional(self, place: Place, model: str) -> Price:
        upstream = place.models.get(model, model)
        if price := self.overlay.get(place.region or "", {}).get(model):
            return price
        if price := self.listed.get(f"bedrock/{place.region}/{upstream}"):
            return price
        base = self.listed.get(upstream) or self.overlay[BASE_REGION].get(model)
        if base is None:
            raise UnknownPrice(
                f"no price is known for `{upstream}` at place `{place.id}`; configure one for the place"
            )
        assumed = place.region != BASE_REGION
        return Price(base.input_usd, base.output_usd, base.source, assumed)

    def unpriced(self, places: Iterable[Place]) -> tuple[str, ...]:
        """A message for every model of every backend that has no price; a start refuses over them."""
        messages: list[str] = []
        for place in places:
            for model in place.models:
                try:
                    self.price(place, model)
                except UnknownPrice as unknown:
                    messages.append(str(unknown))
        return tuple(messages)

    def cost_usd(self, place: Place, model: str, usage: Usage) -> float:
        """What an answer cost, in USD. Raises UnknownPrice."""
        price = self.price(place, model)
        return usage.prompt_tokens * price.input_usd + usage.completion_tokens * price.output_usd

    def estimate_usd(self, place: Place, model: str, prompt_tokens: int, max_tokens: int) -> float:
        """The most that a request can cost: prompt and whole bound on the answer. Raises UnknownPrice."""
        return self.cost_usd(place, model, Usage(prompt_tokens, max_tokens))


def installed_price_map() -> Path | None:
    """The price map inside the installed litellm package, which is not imported; None when it is absent."""
    spec = importlib.util.find_spec("litellm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / MAP_FILE).is_file():
            return path
    return None


def read_price_map(path: Path) -> dict[str, Price]:
    """The entries of the map that have a price per token both ways."""
    entries: Mapping[str, Any] = orjson.loads(path.read_bytes())
    prices: dict[str, Price] = {}
    for name, entry in entries.items():
        given, made = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
        if isinstance(given, int | float) and isinstance(made, int | float):
            prices[name] = Price(float(given), float(made), entry.get("source") or "litellm price map")
    return prices
