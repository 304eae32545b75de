"""What is made of each answer: every judgement on facts alone."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.doctor import access, keeping, routes
from gateway.doctor.calls import NO_CREDENTIALS, Answered, Reply, Unanswered
from gateway.doctor.copies import NotPermitted
from gateway.doctor.finding import Finding, Report, Status

HERE = "eu-central-1"
MODEL = "openai.gpt-oss-20b-1:0"
DENIED = Unanswered("not allowed to look (`AccessDenied`)", "allow the IAM action `x:Y`", "AccessDenied")


def anywhere(region: str) -> None:
    return None


def nowhere(region: str) -> NotPermitted:
    return NotPermitted("tenant `t`", "a-rule")


def off_the_map(region: str) -> None:
    raise LookupError(region)


def status(finding: Finding) -> str:
    return finding.status.value


JUDGEMENTS: list[Callable[[Reply], list[Finding]]] = [
    lambda reply: [access.identity(HERE, reply)],
    lambda reply: [access.clock(HERE, reply)],
    lambda reply: [access.model_offered(HERE, MODEL, reply)],
    lambda reply: [access.model_access(HERE, MODEL, reply)],
    lambda reply: [keeping.retention(HERE, reply, anywhere)],
    lambda reply: list(keeping.invocation_logging(HERE, reply, {}, anywhere)),
    lambda reply: list(routes.inference_profiles(HERE, {MODEL: "place"}, reply)),
    lambda reply: list(routes.vpc_endpoint(HERE, reply)),
]


@pytest.mark.parametrize("judge", JUDGEMENTS)
def test_nothing_is_well_without_an_answer(judge: Callable[[Reply], list[Finding]]) -> None:
    (found,) = judge(DENIED)

    assert found.status is Status.UNKNOWN
    assert found.fix


@pytest.mark.parametrize("judge", JUDGEMENTS[2:4])
def test_nothing_is_well_by_an_empty_answer(judge: Callable[[Reply], list[Finding]]) -> None:
    (found,) = judge(Answered({}))

    assert found.status is Status.FAIL


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId", NO_CREDENTIALS])
def test_credentials_that_are_refused_are_a_failure(code: str) -> None:
    assert status(access.identity(HERE, Unanswered("no", "fix", code))) == "fail"


def test_the_root_user_is_warned_of() -> None:
    root = access.identity(HERE, Answered({"Arn": "arn:aws:iam::1:root", "Account": "1"}))

    assert (status(root), root.seen) == ("warn", "the root user of account 1")


@pytest.mark.parametrize(
    ("ahead_s", "expected", "seen"),
    [
        (0.4, "ok", "as AWS's"),
        (-4.0, "ok", "as AWS's"),
        (-29.0, "ok", "29 s behind AWS"),
        (30.0, "warn", "30 s ahead of AWS"),
        (-239.0, "warn", "239 s behind AWS"),
        (240.0, "fail", "240 s ahead of AWS"),
        (-4000.0, "fail", "4000 s behind AWS"),
    ],
)
def test_a_clock_is_judged_by_how_far_it_is_off(ahead_s: float, expected: str, seen: str) -> None:
    told = access.clock(HERE, Answered({}, ahead_s))
    refused = access.clock(HERE, Unanswered("no", "fix", "SignatureDoesNotMatch", ahead_s))

    assert (status(told), told.seen) == (status(refused), refused.seen) == (expected, seen)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"inferenceTypesSupported": ["ON_DEMAND"]}, "ok"),
        ({"inferenceTypesSupported": ["ON_DEMAND"], "modelLifecycle": {"status": "LEGACY"}}, "warn"),
        ({"inferenceTypesSupported": ["ON_DEMAND"], "responseStreamingSupported": False}, "fail"),
        ({"inferenceTypesSupported": ["PROVISIONED"]}, "fail"),
    ],
)
def test_a_model_must_be_there_on_demand_and_stream(details: dict[str, Any], expected: str) -> None:
    assert status(access.model_offered(HERE, MODEL, Answered({"modelDetails": details}))) == expected


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "ValidationException"])
def test_a_model_that_the_region_does_not_know_is_a_failure(code: str) -> None:
    found = access.model_offered(HERE, MODEL, Unanswered("no", "fix", code))

    assert (status(found), "places.yaml" in found.fix) == ("fail", True)


@pytest.mark.parametrize(
    "lacking",
    [
        {"agreementAvailability": {"status": "NOT_AVAILABLE"}},
        {"authorizationStatus": "NOT_AUTHORIZED"},
        {"entitlementAvailability": "NOT_AVAILABLE"},
        {"regionAvailability": "NOT_AVAILABLE"},
    ],
)
def test_each_of_four_things_keeps_an_account_from_a_model(lacking: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "agreementAvailability": {"status": "AVAILABLE"},
        "authorizationStatus": "AUTHORIZED",
        "entitlementAvailability": "AVAILABLE",
        "regionAvailability": "AVAILABLE",
    }

    assert status(access.model_access(HERE, MODEL, Answered(good))) == "ok"
    assert status(access.model_access(HERE, MODEL, Answered({**good, **lacking}))) == "fail"


@pytest.mark.parametrize(
    ("mode", "may_keep", "expected"),
    [
        ("none", nowhere, "ok"),
        ("default", anywhere, "warn"),
        ("inherit", anywhere, "warn"),
        ("aws_review", anywhere, "warn"),
        ("aws_review", nowhere, "fail"),
        ("aws_review", off_the_map, "fail"),
        ("provider_data_share", anywhere, "fail"),
        ("something_new", anywhere, "fail"),
        (None, anywhere, "fail"),
    ],
)
def test_only_the_mode_that_keeps_nothing_is_well(
    mode: str | None, may_keep: keeping.MayKeep, expected: str
) -> None:
    assert status(keeping.retention(HERE, Answered({"mode": mode}), may_keep)) == expected


@pytest.mark.parametrize(
    ("may_keep", "expected", "seen"),
    [
        (anywhere, "warn", "prompts and answers go to log group `g` in eu-central-1"),
        (
            nowhere,
            "fail",
            "prompts and answers go to log group `g` in eu-central-1, and `a-rule` does not let a request of "
            "tenant `t` be logged there",
        ),
        (
            off_the_map,
            "fail",
            "prompts and answers go to log group `g` in eu-central-1, and the bundle does not know in which "
            "country `eu-central-1` is",
        ),
    ],
)
def test_a_log_of_prompts_is_judged_by_the_rules(may_keep: keeping.MayKeep, expected: str, seen: str) -> None:
    config = {"loggingConfig": {"cloudWatchConfig": {"logGroupName": "g", "roleArn": "r"}}}

    (found,) = keeping.invocation_logging(HERE, Answered(config), {}, may_keep)

    assert (status(found), found.seen) == (expected, seen)


@pytest.mark.parametrize(
    ("reply", "region"),
    [
        (Answered({"LocationConstraint": "eu-west-3"}), "eu-west-3"),
        (Answered({"LocationConstraint": None}), "us-east-1"),
        (Answered({"LocationConstraint": "EU"}), "eu-west-1"),
        (Unanswered("moved", "fix", "PermanentRedirect", bucket_region="us-west-2"), "us-west-2"),
        (Unanswered("moved", "fix", "AuthorizationHeaderMalformed", bucket_region="us-west-2"), "us-west-2"),
        (Unanswered("no", "fix", "AccessDenied", bucket_region="us-west-2"), None),
        (DENIED, None),
    ],
)
def test_where_a_bucket_lies_is_read_from_its_location_or_from_s3s_refusal(
    reply: Reply, region: str | None
) -> None:
    assert keeping.bucket_region(reply) == region


def test_a_profile_that_the_bundle_uses_is_a_failure() -> None:
    id_, arn = f"us-gov.{MODEL}", f"arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/us-gov.{MODEL}"
    other = f"arn:aws-us-gov:bedrock:us-gov-east-1::foundation-model/{MODEL}"
    profile = {"inferenceProfileId": id_, "inferenceProfileArn": arn, "models": [{"modelArn": other}]}

    for used in (id_, arn):
        reply = Answered({"inferenceProfileSummaries": [profile]})
        (found,) = routes.inference_profiles("us-gov-west-1", {used: "gov"}, reply)

        assert status(found) == "fail"
        assert found.seen == f"place `gov` uses profile `{used}`, which also answers in us-gov-east-1"


def test_an_applications_profile_is_told_from_one_of_aws() -> None:
    arn = "arn:aws:bedrock:eu-central-1:1:application-inference-profile/abc"
    model = f"arn:aws:bedrock:us-east-1::foundation-model/{MODEL}"
    profile = {
        "inferenceProfileId": "abc",
        "inferenceProfileArn": arn,
        "models": [{"modelArn": model}],
        "type": "APPLICATION",
    }

    (found,) = routes.inference_profiles(
        HERE, {MODEL: "p"}, Answered({"inferenceProfileSummaries": [profile]})
    )

    assert (status(found), found.seen.partition(" offers")[0]) == ("warn", "an application's profile `abc`")


def endpoint(**changed: Any) -> Answered:
    narrow = [
        {"Effect": "Allow", "Principal": {"AWS": "arn:1"}, "Action": "bedrock:InvokeModel", "Resource": "a"}
    ]
    whole = {
        "VpcEndpointId": "vpce-1",
        "VpcId": "vpc-1",
        "ServiceName": f"com.amazonaws.{HERE}.bedrock-runtime",
        "State": "available",
        "PrivateDnsEnabled": True,
        "PolicyDocument": json.dumps({"Statement": narrow}),
    }
    return Answered({"VpcEndpoints": [{**whole, **changed}]})


@pytest.mark.parametrize(
    ("changed", "expected", "fix"),
    [
        ({}, "ok", ""),
        ({"State": "Available"}, "ok", ""),
        ({"State": "pending"}, "fail", "repair or remove it"),
        ({"PrivateDnsEnabled": False}, "warn", "turn private DNS on"),
        (
            {"PolicyDocument": None},
            "warn",
            "allow only your account's role and the models of the bundle",
        ),
        (
            {"PolicyDocument": None, "PrivateDnsEnabled": False},
            "warn",
            "turn private DNS on; allow only your account's role and the models of the bundle",
        ),
        (
            {"ServiceName": f"com.amazonaws.{HERE}.logs"},
            "warn",
            "make an interface endpoint for `bedrock-runtime` in the gateway's VPC, with private DNS",
        ),
    ],
)
def test_a_vpc_endpoint_must_be_up_named_and_narrow(changed: dict[str, Any], expected: str, fix: str) -> None:
    (found,) = routes.vpc_endpoint(HERE, endpoint(**changed))

    assert (status(found), found.fix) == (expected, fix)


@pytest.mark.parametrize(
    ("statement", "wide"),
    [
        ({"Principal": "*", "Action": "*", "Resource": "*"}, True),
        ({"Principal": {"AWS": "*"}, "Action": "bedrock:InvokeModel", "Resource": "a"}, True),
        (
            {"Principal": "*", "Action": "bedrock:InvokeModel", "Resource": "a", "Condition": {"x": {}}},
            False,
        ),
        ({"Principal": {"AWS": "arn:1"}, "Action": "bedrock:*", "Resource": "a"}, True),
        ({"Principal": {"AWS": "arn:1"}, "Action": ["bedrock:InvokeModel"], "Resource": ["a", "*"]}, True),
        ({"Principal": {"AWS": ["arn:1"]}, "Action": "bedrock:InvokeModel", "Resource": "a"}, False),
        ({"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}, False),
    ],
)
def test_a_policy_is_wide_when_anyone_or_any_model_is_let_through(
    statement: dict[str, Any], wide: bool
) -> None:
    allowed = {"Effect": "Allow", **statement}

    assert routes.wildcard(json.dumps({"Statement": [allowed]})) is wide
    assert routes.wildcard(json.dumps({"Statement": allowed})) is wide


def test_a_policy_that_cannot_be_read_is_taken_for_wide() -> None:
    assert routes.wildcard("not json")
    assert routes.wildcard("[]")
    assert routes.wildcard("")


@pytest.mark.parametrize(
    ("addresses", "expected", "seen"),
    [
        (["10.0.0.1", "10.0.0.2"], "ok", "`h` is 10.0.0.1, 10.0.0.2: private"),
        (["10.0.0.1", "3.120.0.1"], "warn", "`h` is 3.120.0.1: public, past the VPC endpoint"),
        (["fd00::1"], "ok", "`h` is fd00::1: private"),
    ],
)
def test_a_name_must_lead_to_the_private_endpoint(addresses: list[str], expected: str, seen: str) -> None:
    (found,) = routes.private_name(HERE, "h", (), endpoint(), lambda host: addresses)

    assert (status(found), found.seen) == (expected, seen)


def test_a_name_is_not_looked_at_where_no_endpoint_names_it() -> None:
    for reply in (endpoint(PrivateDnsEnabled=False), Answered({}), DENIED):
        assert list(routes.private_name(HERE, "h", (), reply, lambda host: ["3.120.0.1"])) == []


@pytest.mark.parametrize(
    ("addresses", "expected", "seen"),
    [
        (["10.20.0.7"], "ok", "`h` is 10.20.0.7: in 10.20.0.0/16"),
        (
            ["10.20.0.7", "10.30.0.7"],
            "fail",
            "`h` is 10.30.0.7: outside 10.20.0.0/16, so the gateway refuses to connect",
        ),
        (["fd00::1"], "fail", "`h` is fd00::1: outside 10.20.0.0/16, so the gateway refuses to connect"),
    ],
)
def test_where_a_place_declares_its_networks_the_name_must_lead_into_them(
    addresses: list[str], expected: str, seen: str
) -> None:
    declared = [ipaddress.ip_network("10.20.0.0/16")]

    # Also without an endpoint in this account: it may be shared from another.
    for reply in (endpoint(), Answered({}), DENIED):
        (found,) = routes.private_name(HERE, "h", declared, reply, lambda host: addresses)

        assert (status(found), found.seen) == (expected, seen)


def test_a_name_without_an_address_is_unknown() -> None:
    def fails(host: str) -> list[str]:
        raise OSError

    (found,) = routes.private_name(HERE, "h", (), endpoint(), fails)

    assert (status(found), found.seen) == ("unknown", "`h` has no address here")


@pytest.mark.parametrize(
    ("statuses", "healthy"),
    [
        ([Status.OK], True),
        ([Status.OK, Status.WARN], True),
        ([Status.OK, Status.FAIL], False),
        ([Status.OK, Status.UNKNOWN], False),
    ],
)
def test_what_failed_or_could_not_be_looked_at_is_not_healthy(statuses: list[Status], healthy: bool) -> None:
    assert Report(tuple(Finding("c", HERE, each, "seen") for each in statuses)).healthy is healthy
