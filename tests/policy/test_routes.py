from __future__ import annotations

import pytest

from gateway import errors
from gateway.policy.routes import Hop, Route, Routes, UnknownModel

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
