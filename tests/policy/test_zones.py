"""Where a region is, who runs it, and what follows: Britain, Switzerland, and AWS's clouds apart.

Bedrock is said to serve gpt-oss in none of the Sovereign Cloud, China and Zurich; here it is made to, so that
a place there goes through the loader as any other does.
"""

from __future__ import annotations

import pytest

from gateway.facts import Facts
from gateway.labels import Labels
from gateway.places import Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.library import adopting, pack_called
from gateway.policy.permit import Verdict, permit
from gateway.policy.source.directory import Files
from tests.policy.bundles import compiled, default_files, problems_of

ABROAD = {
    "zurich": "eu-central-2",
    "sovereign": "eusc-de-east-1",
    "govcloud": "us-gov-west-1",
    "govcloud-east": "us-gov-east-1",
    "beijing": "cn-north-1",
    "ningxia": "cn-northwest-1",
}

TENANTS = """
  - {id: clinic-ch, zone: CH, purpose: care, labels: {default: [public]}}
  - {id: clinic-gb, zone: GB, purpose: care, labels: {default: [public]}}
  - {id: clinic-de, zone: DE, purpose: care, labels: {default: [public]}}
  - {id: clinic-us, zone: US, purpose: care, labels: {default: [public]}}
  - {id: clinic-cn, zone: CN, purpose: care, labels: {default: [public]}}
"""

# Any law's tenants may be answered anywhere: what is denied then, the rules forbid.
ANYWHERE = b"- {id: anywhere, permit: [infer]}"


def files(*, served: bool = True, everywhere: bool = True) -> dict[str, bytes]:
    """The default bundle with a place in each of these regions."""
    content = default_files()
    for name, region in ABROAD.items():
        content["places.yaml"] += (
            f"\n  - id: {name}\n    kind: bedrock\n    region: {region}\n"
            '    models: {gpt-oss-20b: "openai.gpt-oss-20b-1:0"}\n'
        ).encode()
    content["tenants.yaml"] += TENANTS.encode()
    if served:
        more = ", ".join(region for region in ABROAD.values() if region != "us-gov-west-1")
        content["zones.yaml"] = content["zones.yaml"].replace(
            b"us-gov-west-1]\n    source: bedrock-regions\n  gpt-oss-120b",
            f"us-gov-west-1, {more}]\n    source: bedrock-regions\n  gpt-oss-120b".encode(),
        )
    if everywhere:
        content["residency/99-anywhere.yaml"] = ANYWHERE
    return content


def with_packs(content: dict[str, bytes], *packs: str) -> Bundle:
    """The bundle that has adopted these packs. The contract that `gdpr` asks for is there with everyone."""
    content = dict(content)
    text = content["zones.yaml"].decode()
    text = text.replace(
        "\noperators:\n",
        "\n  processing-agreement: {means: as in GDPR Art. 28(3), source: own-statement}\n\noperators:\n",
    ).replace("attestations: []", "attestations: [processing-agreement]")
    found = Files({**content, "zones.yaml": text.encode()})
    for name in packs:
        found = adopting(found, pack_called(name))
    return compiled(found.content).bundle


@pytest.fixture(scope="module")
def default() -> Bundle:
    return compiled(files()).bundle


@pytest.fixture(scope="module")
def gdpr() -> Bundle:
    return with_packs(files(), "gdpr")


@pytest.fixture(scope="module")
def operator_law() -> Bundle:
    return with_packs(files(), "operator-law")


def facts(tenant: str, *labels: str, bundle: Bundle) -> Facts:
    carried = bundle.vocabulary.from_names(labels)
    return Facts(tenant, bundle.tenants[tenant].zone, "care", "gpt-oss-20b", carried)


def answered(bundle: Bundle, tenant: str, *labels: str) -> set[str]:
    return set(permit(facts(tenant, *labels, bundle=bundle), bundle).places[Action.INFER])


def verdict(bundle: Bundle, tenant: str, place: str, *labels: str) -> Verdict:
    return permit(facts(tenant, *labels, bundle=bundle), bundle).verdict(Action.INFER, place)


@pytest.mark.parametrize(
    ("place", "host", "partition", "country", "operator", "regimes"),
    [
        (
            "bedrock-london", "bedrock-runtime.eu-west-2.amazonaws.com",
            "aws", "GB", "aws", {"us-cloud-act", "us-fisa-702"},
        ),
        (
            "zurich", "bedrock-runtime.eu-central-2.amazonaws.com",
            "aws", "CH", "aws", {"us-cloud-act", "us-fisa-702"},
        ),
        (
            "sovereign", "bedrock-runtime.eusc-de-east-1.amazonaws.eu",
            "aws-eusc", "DE", "aws-esc", {"us-cloud-act", "us-fisa-702"},
        ),
        (
            "govcloud", "bedrock-runtime.us-gov-west-1.amazonaws.com",
            "aws-us-gov", "US", "aws", {"us-cloud-act", "us-fisa-702"},
        ),
        (
            "govcloud-east", "bedrock-runtime.us-gov-east-1.amazonaws.com",
            "aws-us-gov", "US", "aws", {"us-cloud-act", "us-fisa-702"},
        ),
        (
            "beijing", "bedrock-runtime.cn-north-1.amazonaws.com.cn",
            "aws-cn", "CN", "aws-china", {"prc-data-security-law"},
        ),
        (
            "ningxia", "bedrock-runtime.cn-northwest-1.amazonaws.com.cn",
            "aws-cn", "CN", "aws-china", {"prc-data-security-law"},
        ),
    ],
)  # fmt: skip
def test_a_place_in_another_cloud_follows_from_its_region(
    default: Bundle, place: str, host: str, partition: str, country: str, operator: str, regimes: set[str]
) -> None:
    found: Place = default.places[place]

    assert (found.host, found.partition, found.country) == (host, partition, country)
    assert (found.operator, set(found.regimes), str(found.source)) == (operator, regimes, "derived")
    assert found.attestations == frozenset()


def test_that_a_host_name_can_be_built_is_no_reason_to_use_it() -> None:
    """As the default bundle's zones.yaml stands: gpt-oss is served in one of these regions."""
    found = problems_of(files(served=False))

    assert [problem.message for problem in found] == [
        f"`{region}` does not serve `gpt-oss-20b`"
        for region in sorted(ABROAD.values(), key=list(ABROAD.values()).index)
        if region != "us-gov-west-1"
    ]


def test_neither_britain_nor_switzerland_is_in_the_eea(default: Bundle) -> None:
    """The Commission holds both for adequate; that makes no country a member."""
    in_eea = {place.id for place in default.places.values() if "EEA" in place.zones}

    assert not {"bedrock-london", "zurich"} & in_eea
    assert {"sovereign", "bedrock-frankfurt"} <= in_eea
    assert default.places["zurich"].zones == {"CH", "EFTA"}
    assert default.places["bedrock-london"].zones == {"GB"}
    eea = "personal-data-of-eea-tenants-stays-in-the-eea"
    for place in ("bedrock-london", "zurich", "govcloud", "beijing"):
        assert verdict(default, "clinic-de", place, "personal") == Verdict(False, eea, "GDPR Art. 44")
    assert verdict(default, "clinic-de", "sovereign", "personal").allowed


def test_a_british_tenant_may_use_the_eea_and_not_switzerland(default: Bundle) -> None:
    assert answered(default, "clinic-gb", "personal") == {
        "local-engine", "bedrock-london", "bedrock-frankfurt", "bedrock-ireland", "bedrock-stockholm",
        "bedrock-milan", "sovereign",
    }  # fmt: skip


def test_a_swiss_tenant_is_under_no_rule_of_the_eea_and_served_on_the_premises_until_one_is_written() -> None:
    as_it_ships = compiled(files(everywhere=False)).bundle

    assert answered(as_it_ships, "clinic-ch", "personal") == {"local-engine"}
    assert answered(as_it_ships, "clinic-ch") == {"local-engine"}
    assert verdict(as_it_ships, "clinic-ch", "zurich").rule == "default-deny"


def test_no_cloud_keeps_a_secret(default: Bundle) -> None:
    for tenant in ("clinic-de", "clinic-ch", "clinic-gb", "clinic-us", "clinic-cn"):
        assert answered(default, tenant, "secret") == {"local-engine"}
        assert verdict(default, tenant, "sovereign", "secret").rule == "secret-stays-on-the-premises"


def test_work_of_us_tenants_stays_in_the_us_to_which_the_governments_cloud_belongs(default: Bundle) -> None:
    places = answered(default, "clinic-us", "internal")

    assert {"govcloud", "govcloud-east", "bedrock-virginia"} <= places
    # The rule is about clouds under US law: who runs China's are not.
    assert not {"sovereign", "zurich", "bedrock-london"} & places


def test_under_the_gdpr_pack_the_sovereign_cloud_is_in_the_eea_and_no_other_of_these_is(gdpr: Bundle) -> None:
    for label in ("personal", "health"):
        assert verdict(gdpr, "clinic-de", "sovereign", label).allowed
        for place in ("bedrock-london", "zurich", "govcloud", "beijing", "ningxia"):
            assert not verdict(gdpr, "clinic-de", place, label).allowed
    assert verdict(gdpr, "clinic-ch", "zurich", "personal").allowed  # no tenant of the EEA


def test_under_the_operator_law_pack_no_cloud_of_these_reads_what_is_personal(operator_law: Bundle) -> None:
    by = {
        place: verdict(operator_law, "clinic-ch", place, "personal").rule
        for place in ("sovereign", "zurich", "govcloud", "beijing", "bedrock-frankfurt")
    }

    order = "operator-law-personal-data-is-out-of-reach-of-disclosure-orders"
    assert by == {
        "sovereign": order,
        "zurich": order,
        "govcloud": order,
        "beijing": "operator-law-personal-data-is-out-of-reach-of-prc-authorities",
        "bedrock-frankfurt": order,
    }
    for tenant in ("clinic-de", "clinic-ch", "clinic-gb"):
        assert answered(operator_law, tenant, "personal") == {"local-engine"}
        assert answered(operator_law, tenant, "confidential") == {"local-engine"}
    assert "govcloud" in answered(operator_law, "clinic-us", "personal")


def test_in_an_air_gap_there_is_no_cloud() -> None:
    bundle = with_packs(files(), "air-gapped")

    for labels in (Labels("public", frozenset()), bundle.vocabulary.highest):
        for tenant in bundle.tenants.values():
            permitted = permit(Facts(tenant.id, tenant.zone, "care", "gpt-oss-20b", labels), bundle)
            for action in Action:
                assert all(
                    "on-premises" in bundle.places[place].attestations for place in permitted.places[action]
                )
