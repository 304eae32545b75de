"""Prices: the map by path, the overlay per region, and what is only assumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.backends.base import Usage
from gateway.backends.prices import FREE, Price, Prices, UnknownPrice, installed_price_map
from tests.backends.support import MODEL, bedrock_place, place

PRICES = Prices.load()
MILLION = Usage(1_000_000, 1_000_000)


@pytest.mark.parametrize(
    ("region", "model", "input_usd", "output_usd", "assumed"),
    [
        ("us-east-1", "gpt-oss-20b", 0.07, 0.30, False),
        ("us-east-1", "gpt-oss-120b", 0.15, 0.60, False),
        ("sa-east-1", "gpt-oss-120b", 0.18, 0.73, False),
        ("sa-east-1", "gpt-oss-20b", 0.07, 0.30, True),
        ("us-gov-west-1", "gpt-oss-20b", 0.084, 0.36, False),
        ("us-gov-west-1", "gpt-oss-120b", 0.18, 0.72, False),
        ("eu-central-1", "gpt-oss-20b", 0.07, 0.30, True),
        ("eu-west-2", "gpt-oss-120b", 0.15, 0.60, True),
    ],
)
def test_a_region_has_its_own_price_or_an_assumed_one(
    region: str, model: str, input_usd: float, output_usd: float, assumed: bool
) -> None:
    price = PRICES.price(bedrock_place(region), model)
    assert price.input_usd * 1e6 == pytest.approx(input_usd)
    assert price.output_usd * 1e6 == pytest.approx(output_usd)
    assert price.assumed is assumed
    assert price.source


def test_the_overlays_us_east_1_agrees_with_the_installed_map() -> None:
    for model in ("gpt-oss-20b", "gpt-oss-120b"):
        listed = PRICES.listed[f"openai.{model}-1:0"]
        own = PRICES.overlay["us-east-1"][model]
        assert (own.input_usd, own.output_usd) == pytest.approx((listed.input_usd, listed.output_usd))


def test_cost_is_usage_times_price_and_the_estimate_takes_the_whole_bound() -> None:
    bedrock = bedrock_place("us-east-1")
    assert PRICES.cost_usd(bedrock, MODEL, MILLION) == pytest.approx(0.37)
    assert PRICES.cost_usd(bedrock, MODEL, Usage(100, 20, reasoning_tokens=15)) == pytest.approx(0.000013)
    assert PRICES.estimate_usd(bedrock, MODEL, 1000, 4096) == pytest.approx(0.0012988)


def test_own_hardware_costs_nothing_unless_configured() -> None:
    engine = place("engine", "local-engine")
    cluster = place("openai", "cluster", operator="self")
    assert PRICES.price(engine, MODEL) is FREE
    assert PRICES.cost_usd(cluster, MODEL, MILLION) == 0
    configured = Prices.load(configured={"local-engine": Price(1e-6, 2e-6, "depreciation")})
    assert configured.cost_usd(engine, MODEL, MILLION) == pytest.approx(3.0)


def test_another_provider_is_priced_by_the_map_or_refused_by_name() -> None:
    known = place("litellm", "mistral", models={MODEL: "mistral/mistral-small-latest"}, operator="mistral")
    unknown = place("litellm", "acme", models={MODEL: "acme/model"}, operator="acme")
    assert PRICES.cost_usd(known, MODEL, MILLION) > 0
    with pytest.raises(UnknownPrice, match="no price is known for `acme/model` at place `acme`"):
        PRICES.estimate_usd(unknown, MODEL, 1, 1)
    assert PRICES.unpriced([known, unknown, bedrock_place()]) == (
        "no price is known for `acme/model` at place `acme`; configure one for the place",
    )


def test_without_the_map_the_overlay_alone_prices_bedrock(tmp_path: Path) -> None:
    empty = tmp_path / "map.json"
    empty.write_text("{}")
    prices = Prices.load(price_map=empty)
    assert prices.price(bedrock_place("eu-west-1"), MODEL).assumed
    assert prices.cost_usd(bedrock_place("eu-west-1"), MODEL, MILLION) == pytest.approx(0.37)


def test_an_unknown_key_in_the_overlay_is_refused_by_name(tmp_path: Path) -> None:
    wrong = tmp_path / "prices.yaml"
    wrong.write_text("apiVersion: douane.dev/v1\ncurrency: USD\nregions: {}\nregoins: {}\n")
    with pytest.raises(ValidationError, match="regoins"):
        Prices.load(overlay=wrong)


def test_no_module_of_the_gateway_imports_litellm_torch_or_the_engine() -> None:
    assert installed_price_map() is not None
    program = (
        "import importlib, pkgutil, sys, gateway\n"
        "for module in pkgutil.walk_packages(gateway.__path__, 'gateway.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "from gateway.backends.prices import Prices\n"
        "Prices.load()\n"
        "heavy = ('litellm', 'torch', 'triton', 'local_engine')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
