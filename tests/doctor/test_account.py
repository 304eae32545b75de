"""Whole examinations against moto's STS, EC2 and S3 and an emulated Bedrock: what is wrong is found."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.doctor.account import examine_account
from gateway.doctor.finding import Finding
from gateway.doctor.permissions import ACTIONS
from gateway.policy.geography import aws_regions
from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.control_plane import Account
from gateway.testing.bedrock.server import Running, running_emulator
from gateway.testing.bedrock.signature import Keys
from tests.doctor.aws import LARGE, OUTSIDE, REGIONS, SMALL, Witness, at, of, two_regions, witnessed

FRANKFURT, IRELAND = REGIONS
NARROW = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::123456789012:role/gateway"},
            "Action": "bedrock:InvokeModel*",
            "Resource": f"arn:aws:bedrock:{FRANKFURT}::foundation-model/{SMALL}",
        }
    ],
}
ROLE = "arn:aws:iam::123456789012:role/logging"
WATCHED = {"logGroupName": "prompts", "roleArn": ROLE}
SMALLEST = "tenant `acme-de` in `DE` with labels `public`, purpose `analytics`, model `gpt-oss-120b`"


@pytest.fixture(scope="module")
def account(moto_url: str) -> dict[str, str]:
    """Buckets in two countries, and in Frankfurt a VPC endpoint that is as it should be."""
    session = witnessed().session

    def client(service: str, region: str) -> Any:
        return session.client(service, region_name=region, endpoint_url=moto_url)

    client("s3", OUTSIDE).create_bucket(Bucket="in-virginia")
    inside = {"LocationConstraint": FRANKFURT}
    client("s3", FRANKFURT).create_bucket(Bucket="in-frankfurt", CreateBucketConfiguration=inside)
    ec2 = client("ec2", FRANKFURT)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName=f"com.amazonaws.{FRANKFURT}.bedrock-runtime",
        VpcEndpointType="Interface",
        PrivateDnsEnabled=True,
        PolicyDocument=json.dumps(NARROW),
    )
    ec2.create_vpc_endpoint(
        VpcId=vpc, ServiceName=f"com.amazonaws.{FRANKFURT}.logs", VpcEndpointType="Interface"
    )
    return {"vpc": vpc, "endpoint": made["VpcEndpoint"]["VpcEndpointId"]}


async def examined(
    emulators: dict[str, Running], moto_url: str, witness: Witness | None = None
) -> tuple[Finding, ...]:
    return await asyncio.to_thread(
        examine_account,
        two_regions(),
        "gateway",
        (witness or witnessed()).session,
        at(emulators, moto_url),
        aws_regions(),
        lambda host: ["10.0.0.7"],
    )


async def test_an_account_as_it_should_be_is_found_so_check_by_check(
    emulators: dict[str, Running], moto_url: str, account: dict[str, str]
) -> None:
    emulators[FRANKFURT].emulator.control_plane.account = Account(data_retention="none")

    found = [each for each in await examined(emulators, moto_url) if each.region == FRANKFURT]

    assert [(each.check, each.status.value, each.seen, each.fix, each.emulated) for each in found] == [
        ("credentials", "ok", "`arn:aws:sts::123456789012:user/moto`", "", True),
        ("clock", "ok", "as AWS's", "", True),
        (f"model {SMALL}", "ok", "on demand in this region", "", True),
        (f"access {SMALL}", "ok", "the account may use it", "", True),
        (f"model {LARGE}", "ok", "on demand in this region", "", True),
        (f"access {LARGE}", "ok", "the account may use it", "", True),
        ("data retention", "ok", "`none`: nothing is kept", "", True),
        ("invocation logging", "ok", "off", "", True),
        ("inference profiles", "ok", "0 in this region, none for a model of the bundle", "", True),
        (
            "VPC endpoint",
            "ok",
            f"`{account['endpoint']}` in `{account['vpc']}`, private DNS, policy narrowed",
            "",
            True,
        ),
        (
            "Bedrock's address",
            "ok",
            f"`bedrock-runtime.{FRANKFURT}.amazonaws.com` is 10.0.0.7: private",
            "",
            True,
        ),
    ]


async def test_only_the_regions_of_the_bundle_are_asked_and_each_only_about_itself(
    emulators: dict[str, Running], moto_url: str, account: dict[str, str]
) -> None:
    witness = witnessed()

    await examined(emulators, moto_url, witness)

    assert emulators[OUTSIDE].emulator.ledger.entries == ()
    for region in REGIONS:
        asked = emulators[region].emulator.ledger.requests
        assert {(one.signed_region, one.status) for one in asked} == {(region, 200)}
    assert {one.region for one in witness.sent} == set(REGIONS)


async def test_a_bucket_in_a_country_that_the_rules_do_not_permit_is_a_failure_that_names_the_rule(
    emulators: dict[str, Running], moto_url: str, account: dict[str, str]
) -> None:
    emulators[FRANKFURT].emulator.control_plane.account = Account(
        logging={"s3Config": {"bucketName": "in-virginia"}, "textDataDeliveryEnabled": True}
    )

    found = await examined(emulators, moto_url)

    fix = "delete the logging configuration of this region, or permit `log` there by a rule"
    seen = (
        "prompts and answers go to bucket `in-virginia` in us-east-1, and `default-deny` does not let a "
        f"request of {SMALLEST} be logged there"
    )
    assert of(found, FRANKFURT, "invocation logging") == [("fail", seen, fix)]
    assert of(found, IRELAND, "invocation logging") == [("ok", "off", "")]


async def test_every_target_of_invocation_logs_is_looked_at(
    emulators: dict[str, Running], moto_url: str, account: dict[str, str]
) -> None:
    emulators[IRELAND].emulator.control_plane.account = Account(
        logging={
            "cloudWatchConfig": {**WATCHED, "largeDataDeliveryS3Config": {"bucketName": "in-frankfurt"}},
            "s3Config": {"bucketName": "nobody-has-this-one"},
        }
    )

    found = of(await examined(emulators, moto_url), IRELAND, "invocation logging")

    assert [(status, seen.partition(", and")[0]) for status, seen, _ in found] == [
        ("fail", "prompts and answers go to log group `prompts` in eu-west-1"),
        ("unknown", "prompts go to bucket `nobody-has-this-one`"),
        ("fail", "prompts and answers go to bucket `in-frankfurt` in eu-central-1"),
    ]


async def test_motos_own_logging_configuration_reads_the_same(moto_url: str, account: dict[str, str]) -> None:
    session = witnessed().session
    bedrock = session.client("bedrock", region_name=FRANKFURT, endpoint_url=moto_url)
    bedrock.put_model_invocation_logging_configuration(
        loggingConfig={"s3Config": {"bucketName": "in-frankfurt"}, "textDataDeliveryEnabled": False}
    )

    class Moto:
        emulated = True

        def url(self, service: str, region: str) -> str:
            return moto_url

    found = await asyncio.to_thread(
        examine_account, two_regions(), "gateway", witnessed().session, Moto(), aws_regions(), lambda host: []
    )

    (logging,) = of(found, FRANKFURT, "invocation logging")
    assert logging == (
        "warn",
        "on without text: who called which model when is logged, prompts and answers are not",
        "turn it off, if nobody needs it",
    )


async def test_what_may_not_be_looked_at_is_unknown_and_names_the_action_to_allow(
    emulators: dict[str, Running], moto_url: str
) -> None:
    operations = {operation for service, operation in ACTIONS if service == "bedrock"}
    emulators[FRANKFURT].emulator.control_plane.account = Account(denied=frozenset(operations))

    found = await examined(emulators, moto_url)

    refused = {each.fix for each in found if each.region == FRANKFURT and "not allowed" in each.seen}
    assert refused == {f"allow the IAM action `bedrock:{operation}`" for operation in operations}
    asked = ("model", "access", "data retention", "invocation logging", "inference profiles")
    statuses = {
        each.status.value for each in found if each.region == FRANKFURT and each.check.startswith(asked)
    }
    assert statuses == {"unknown"}


async def test_models_that_the_region_or_the_account_does_not_have_are_failures(
    emulators: dict[str, Running], moto_url: str
) -> None:
    emulators[FRANKFURT].emulator.control_plane.account = Account(
        models={LARGE: {"inferenceTypesSupported": ["INFERENCE_PROFILE"]}},
        availability={
            SMALL: {"authorizationStatus": "NOT_AUTHORIZED", "agreementAvailability": {"status": "PENDING"}}
        },
    )

    found = await examined(emulators, moto_url)

    assert of(found, FRANKFURT, f"model {LARGE}") == [
        (
            "fail",
            "it cannot be called on demand, only by INFERENCE_PROFILE",
            "a profile may move requests to other regions: use a model that this region serves itself",
        )
    ]
    assert of(found, FRANKFURT, f"access {SMALL}") == [
        (
            "fail",
            "agreement PENDING, authorization NOT_AUTHORIZED",
            "enable the model for this account in this region (console: Bedrock, model access)",
        )
    ]


async def test_a_profile_over_other_regions_is_told_with_where_it_leads(
    emulators: dict[str, Running], moto_url: str
) -> None:
    def profile(id_: str, model_id: str, *regions: str) -> dict[str, Any]:
        return {
            "inferenceProfileName": id_,
            "inferenceProfileId": id_,
            "inferenceProfileArn": f"arn:aws:bedrock:{FRANKFURT}:123456789012:inference-profile/{id_}",
            "models": [
                {"modelArn": f"arn:aws:bedrock:{region}::foundation-model/{model_id}"} for region in regions
            ],
            "status": "ACTIVE",
            "type": "SYSTEM_DEFINED",
        }

    emulators[FRANKFURT].emulator.control_plane.account = Account(
        profiles=(
            profile("eu.another-maker.model-1:0", "another-maker.model-1:0", FRANKFURT, "eu-west-3"),
            profile(f"global.{SMALL}", SMALL, FRANKFURT, OUTSIDE, "ap-south-1"),
        )
    )

    found = await examined(emulators, moto_url)

    assert of(found, FRANKFURT, "inference profiles") == [
        (
            "warn",
            f"AWS's profile `global.{SMALL}` offers `{SMALL}` from ap-south-1, us-east-1; "
            "the bundle does not use it",
            "deny `bedrock:InvokeModel*` on `inference-profile/*` to the gateway's role",
        )
    ]


async def test_a_region_without_a_vpc_endpoint_is_warned_of(
    emulators: dict[str, Running], moto_url: str
) -> None:
    found = await examined(emulators, moto_url)

    assert of(found, IRELAND, "VPC endpoint") == [
        (
            "warn",
            "none: requests take the public way (TLS)",
            "make an interface endpoint for `bedrock-runtime` in the gateway's VPC, with private DNS",
        )
    ]
    assert of(found, IRELAND, "Bedrock's address") == []


async def test_keys_that_bedrock_does_not_know_make_every_check_of_it_unknown(
    emulators: dict[str, Running], moto_url: str
) -> None:
    others = Emulator(FRANKFURT, keys=Keys(access_key="AKIASOMEBODYELSE0000"))
    async with running_emulator(FRANKFURT, emulator=others) as of_others:
        found = await examined({**emulators, FRANKFURT: of_others}, moto_url)

    bedrock = [each for each in found if each.region == FRANKFURT][2:9]
    assert {(each.status.value, each.seen) for each in bedrock} == {
        ("unknown", "AWS does not accept the credentials (`UnrecognizedClientException`)")
    }
