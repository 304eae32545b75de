"""The shipped bundle: it loads, its examples cover it, and its geography is the world's."""

from __future__ import annotations

import json
import re

import pytest
from botocore.loaders import Loader

from gateway.facts import Caller, Facts
from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.geography import aws_regions, countries
from gateway.policy.json_schema import schemas
from gateway.policy.load import load_bundle
from gateway.policy.permit import permit
from gateway.policy.runner import run_cases
from tests.policy.bundles import POLICIES, default_files, loaded_default


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(POLICIES)


def test_it_loads_and_every_rule_is_exercised_by_an_example() -> None:
    loaded = loaded_default()
    run = run_cases(loaded.bundle, loaded.cases)

    assert run.failures() == ()
    assert run.unexercised == ()
    assert run.passed


def test_every_rule_says_what_it_is_for_and_every_forbid_on_what_ground(bundle: Bundle) -> None:
    for rule in bundle.rules:
        assert len(rule.description) > 40
        assert rule.basis is not None or rule.effect == "permit"


def test_the_editors_schemas_are_fresh() -> None:
    for name, text in schemas().items():
        assert (POLICIES / "schema" / name).read_text() == text, (
            "run `douane policy schema --out policies/schema`"
        )
    assert {path.name for path in (POLICIES / "schema").iterdir()} == set(schemas())


def test_every_file_names_its_schema_in_its_first_line() -> None:
    for name, content in default_files().items():
        folder, _, file = name.rpartition("/")
        schema = f"../schema/{folder}.json" if folder else f"schema/{file.removesuffix('.yaml')}.json"
        first = content.decode().splitlines()[0]
        assert first == f"# yaml-language-server: $schema={schema}"
        assert json.loads((POLICIES / folder / schema).read_text())


def test_every_region_of_every_partition_has_a_country_and_every_partition_an_operator(
    bundle: Bundle,
) -> None:
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    partitions = loader.load_data("endpoints")["partitions"]
    regions = {region for partition in partitions for region in partition["regions"]}

    assert set(bundle.geography.regions) == regions == set(aws_regions())
    assert set(bundle.geography.partition_operators) == {one["partition"] for one in partitions}
    assert set(bundle.geography.regions.values()) <= countries()
    assert set(bundle.geography.zones) == countries()


@pytest.mark.parametrize(
    ("region", "country", "zones"),
    [
        ("eu-west-2", "GB", {"GB"}),
        ("eu-central-2", "CH", {"CH", "EFTA"}),
        ("eu-central-1", "DE", {"DE", "EU", "EEA"}),
        ("eu-west-1", "IE", {"IE", "EU", "EEA"}),
        ("eusc-de-east-1", "DE", {"DE", "EU", "EEA"}),
        ("us-gov-west-1", "US", {"US"}),
        ("il-central-1", "IL", {"IL"}),
    ],
)
def test_a_regions_name_is_not_its_jurisdiction(
    bundle: Bundle, region: str, country: str, zones: set[str]
) -> None:
    assert bundle.geography.regions[region] == country
    assert bundle.geography.zones_of(country) == zones


def test_the_eea_is_the_eu_and_three_more_and_neither_holds_gb_or_ch(bundle: Bundle) -> None:
    unions = bundle.geography.unions

    assert len(unions["EU"]) == 27
    assert unions["EEA"] - unions["EU"] == {"IS", "LI", "NO"}
    assert unions["EU"] < unions["EEA"]
    assert not {"GB", "CH"} & unions["EEA"]


def test_bedrock_serves_from_where_the_facts_say_it_does(bundle: Bundle) -> None:
    for model in ("gpt-oss-20b", "gpt-oss-120b"):
        ((upstream, regions),) = bundle.geography.serving[model].items()
        assert upstream == f"openai.{model}-1:0"
        assert regions == {
            "us-east-1", "us-east-2", "us-west-2", "eu-central-1", "eu-north-1", "eu-south-1", "eu-west-1",
            "eu-west-2", "ap-northeast-1", "ap-south-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4",
            "sa-east-1", "us-gov-west-1",
        }  # fmt: skip


def test_a_bedrock_place_follows_from_the_host_that_is_signed_for(bundle: Bundle) -> None:
    found = {
        place.id: (place.host, place.region, place.country, place.operator, place.source)
        for place in bundle.places.values()
        if place.kind == "bedrock"
    }

    assert found == {
        f"bedrock-{city}": (f"bedrock-runtime.{region}.amazonaws.com", region, country, "aws", "derived")
        for city, region, country in (
            ("frankfurt", "eu-central-1", "DE"),
            ("ireland", "eu-west-1", "IE"),
            ("stockholm", "eu-north-1", "SE"),
            ("milan", "eu-south-1", "IT"),
            ("london", "eu-west-2", "GB"),
            ("virginia", "us-east-1", "US"),
            ("ohio", "us-east-2", "US"),
        )
    }
    for place in bundle.places.values():
        if place.kind != "bedrock":
            assert (place.source, place.host, place.region) == ("declared", None, None)


def test_hosts_of_other_partitions_have_their_own_suffix() -> None:
    regions = aws_regions()

    assert regions["eusc-de-east-1"].bedrock_host == "bedrock-runtime.eusc-de-east-1.amazonaws.eu"
    assert regions["us-gov-west-1"].bedrock_host == "bedrock-runtime.us-gov-west-1.amazonaws.com"
    assert regions["cn-north-1"].bedrock_host == "bedrock-runtime.cn-north-1.amazonaws.com.cn"


def test_the_environment_cannot_move_a_region(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    from pathlib import Path

    fake = Path(str(tmp_path)) / "endpoints.json"
    fake.write_text('{"partitions": [], "version": 3}')

    assert "eu-central-1" in aws_regions()


def test_secret_data_never_leaves_the_premises_for_any_tenant_purpose_or_model(bundle: Bundle) -> None:
    for tenant in bundle.tenants.values():
        for purpose in bundle.vocabulary.purposes:
            for model in bundle.routes.models:
                for categories in (frozenset[str](), bundle.vocabulary.categories):
                    labels = Labels("secret", categories)
                    permitted = permit(Facts(tenant.id, tenant.zone, purpose, model, labels), bundle)
                    for action in Action:
                        for place in permitted.places[action]:
                            assert "on-premises" in bundle.places[place].attestations


def test_every_tenant_can_be_recorded_whatever_it_carries(bundle: Bundle) -> None:
    for tenant in bundle.tenants.values():
        facts = Facts(tenant.id, tenant.zone, "general", "gpt-oss-20b", bundle.vocabulary.highest)
        assert permit(facts, bundle).recordable


def test_everyone_is_routed_to_the_local_engine_first_and_within_the_own_region_next(bundle: Bundle) -> None:
    def countries_of(zone: str) -> list[set[str]]:
        route = bundle.routes.for_model("gpt-oss-20b", zone)
        return [{bundle.places[hop.place].country for hop in tier} for tier in route.tiers]

    for zone in ("DE", "GB", "US", "JP"):
        first = bundle.routes.for_model("openai/gpt-oss-20b", zone).tiers[0]
        assert [hop.place for hop in first] == ["local-engine"]
    assert countries_of("DE") == [{"DE"}, {"DE", "IE", "SE", "IT"}, {"GB"}, {"US"}]
    assert countries_of("GB") == [{"DE"}, {"GB"}, {"IE", "DE"}]
    assert countries_of("US") == [{"DE"}, {"US"}]
    assert bundle.routes.for_model("gpt-oss-20b") == bundle.routes.for_model("gpt-oss-20b", "DE")


def test_a_caller_is_found_by_the_hash_of_its_key_alone(bundle: Bundle) -> None:
    for sha256, (tenant, key) in bundle.keys.items():
        assert re.fullmatch("[0-9a-f]{64}", sha256)
        caller = bundle.caller(sha256)
        assert isinstance(caller, Caller)
        assert (caller.tenant, caller.key_id) == (tenant, key)
        assert bundle.caller(sha256.upper()) is None
    assert bundle.caller("0" * 64) is None
    assert bundle.tenant_caller("demo", "printed-once").key_id == "printed-once"
    with pytest.raises(KeyError):
        bundle.tenant_caller("nobody", "k")
