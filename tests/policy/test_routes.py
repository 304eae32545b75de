from __future__ import annotations

import pytest

from gateway import errors
from gateway.policy.routes import Hop, Route, Routes, UnknownModel
from tests.policy.bundles import compiled, edited

TENANTS = Route("us", frozenset({"small"}), ((Hop("us"),),), 1, 1.0, 2.0, tenant_in=frozenset({"US"}))
EVERYONE = Route("all", frozenset({"small", "large"}), ((Hop("a"), Hop("b", 0, 3)),), 2, 1.0, 2.0)
ROUTES = Routes((TENANTS, EVERYONE), frozenset({"small", "large"}), {"vendor/small": "small"})


def test_the_first_route_that_fits_the_model_and_the_country_is_used() -> None:
    assert ROUTES.for_model("small", "US") is TENANTS
    assert ROUTES.for_model("vendor/small", "US") is TENANTS
    assert ROUTES.for_model("large", "US") is EVERYONE
    assert ROUTES.for_model("small", "DE") is EVERYONE
    assert ROUTES.for_model("small") is EVERYONE


def test_an_alias_is_resolved_to_the_canonical_name() -> None:
    assert ROUTES.canonical("vendor/small") == ROUTES.canonical("small") == "small"


@pytest.mark.parametrize("model", ["smal", "", "us.small", "SMALL", "vendor/large"])
def test_an_unknown_model_is_a_404_that_names_the_known_ones(model: str) -> None:
    with pytest.raises(UnknownModel) as raised:
        ROUTES.for_model(model, "DE")

    assert isinstance(raised.value, errors.ModelNotFound)
    assert (raised.value.status, raised.value.code, raised.value.param) == (404, "model_not_found", "model")
    assert raised.value.model == model
    assert raised.value.message.startswith("the model is not served here; ")
    assert "small" in raised.value.message


def test_the_options_of_a_route_are_read_as_written_and_are_off_when_left_out() -> None:
    options = "hedge_after_s: 2\n    on_context_window: next\n    on_content_filter: next"
    files = edited("routes.yaml", "tenant_in: [GB]", f"tenant_in: [GB]\n    {options}")
    files["routes.yaml"] = files["routes.yaml"].replace(
        b"[{place: bedrock-london}]", b"[{place: bedrock-london, context_tokens: 131072}]", 1
    )

    def said(route: Route) -> tuple[object, ...]:
        return (
            route.hedge_after_s,
            route.on_context_window,
            route.on_content_filter,
            {hop.place: hop.context_tokens for tier in route.tiers for hop in tier if hop.context_tokens},
        )

    _, british, everyone = compiled(files).bundle.routes.routes
    assert said(british) == (2.0, "next", "next", {"bedrock-london": 131072})
    assert said(everyone) == (None, "refuse", "refuse", {})
