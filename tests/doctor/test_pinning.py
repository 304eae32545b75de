"""The doctor asks AWS at the derived addresses, whatever the environment says, and nobody else."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from gateway.building import INSTANCE_METADATA_PROVIDER
from gateway.doctor.account import examine_account
from gateway.doctor.calls import Answered, RegionCalls, Unanswered, bare_session, open_session
from gateway.doctor.endpoints import SERVICES, AwsEndpoints
from gateway.doctor.permissions import ACTIONS
from gateway.policy.geography import aws_regions
from gateway.settings import Settings, SettingsInvalid
from tests.doctor.aws import REGIONS, Witness, the_session, two_regions, witnessed

AWS = aws_regions()
CONFIGURATION = """
[default]
endpoint_url = http://evil.example
region = us-east-1
services = evil
proxy = http://evil.example
[services evil]
bedrock =
  endpoint_url = http://evil.example
s3 =
  endpoint_url = http://evil.example
"""


class Body(io.BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


class Canned:
    """Answers in the place of the network, so that AWS's own addresses can be used in a test."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._answer = (status, dict(headers or {}), body)

    def __call__(self, request: Any, **_: Any) -> AWSResponse:
        status, headers, body = self._answer
        if status == 403 and not request.url.startswith("https://bedrock."):
            body = b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
        return AWSResponse(request.url, status, headers, Body(body))


DENIED = Canned(
    403,
    b'{"message": "no"}',
    {"content-type": "application/json", "x-amzn-errortype": "AccessDeniedException"},
)


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment and a profile that would send every call elsewhere."""
    (tmp_path / "config").write_text(CONFIGURATION)
    services = ("", "_BEDROCK", "_STS", "_S3", "_EC2")
    for name in (f"AWS_ENDPOINT_URL{service}" for service in services):
        monkeypatch.setenv(name, "http://evil.example")
    for name, value in {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_BEARER_TOKEN_BEDROCK": "a-token",
        "HTTPS_PROXY": "http://evil.example",
        "https_proxy": "http://evil.example",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("hostile")
def test_no_environment_and_no_profile_moves_a_call() -> None:
    session = open_session(Settings(bedrock="aws"))
    witness = Witness(session)
    session.events.register("before-send.*", witness.note)
    session.events.register_last("before-send.*", DENIED)

    found = examine_account(two_regions(), "gateway", session, AwsEndpoints(AWS), AWS, lambda host: [])

    assert {one.host for one in witness.sent} == {
        f"{service}.{region}.amazonaws.com" for service in SERVICES for region in REGIONS if service != "s3"
    }
    assert all(one.region in one.host for one in witness.sent)
    assert {each.status.value for each in found} == {"unknown"}


@pytest.mark.usefixtures("hostile")
def test_no_proxy_of_the_environment_is_in_a_clients_way() -> None:
    calls = RegionCalls(open_session(Settings(bedrock="aws")), AwsEndpoints(AWS), REGIONS[0])

    for client in calls._clients.values():
        assert client._endpoint.http_session._proxy_config._proxies == {}
        assert client._endpoint.http_session._verify is True


def test_the_addresses_are_those_that_botocore_itself_would_derive() -> None:
    session = boto3.Session(
        aws_access_key_id="AKIA", aws_secret_access_key="secret", botocore_session=bare_session(None)
    )

    for service in ("sts", "bedrock"):  # of s3 and ec2 the models are large, and the rule is the same
        for region in ("eu-central-1", "us-east-1", "us-gov-west-1", "eusc-de-east-1", "cn-north-1"):
            own = session.client(service, region_name=region).meta.endpoint_url
            assert AwsEndpoints(AWS).url(service, region) == own


def test_a_request_to_another_host_is_stopped_before_it_is_sent() -> None:
    calls = RegionCalls(witnessed().session, AwsEndpoints(AWS), REGIONS[0])

    def move(request: Any, **_: Any) -> None:
        request.url = request.url.replace(REGIONS[0], "us-east-1")

    calls._clients["sts"].meta.events.register("before-send.*", move)
    reply = calls.ask("sts", "GetCallerIdentity")

    assert isinstance(reply, Unanswered)
    assert reply.seen == "`sts.eu-central-1.amazonaws.com` cannot be reached (`HostNotPinned`)"


def test_a_bucket_elsewhere_is_told_by_s3_and_not_followed() -> None:
    witness = witnessed()
    calls = RegionCalls(witness.session, AwsEndpoints(AWS), REGIONS[0])
    moved = Canned(
        301,
        b"<Error><Code>PermanentRedirect</Code><Endpoint>b.s3.us-west-2.amazonaws.com</Endpoint></Error>",
        {"x-amz-bucket-region": "us-west-2", "content-type": "application/xml"},
    )
    calls._clients["s3"].meta.events.register_last("before-send.*", moved)

    reply = calls.ask("s3", "GetBucketLocation", Bucket="b")

    assert isinstance(reply, Unanswered)
    assert (reply.code, reply.bucket_region) == ("PermanentRedirect", "us-west-2")
    assert [(one.host, one.operation) for one in witness.sent] == [
        ("s3.eu-central-1.amazonaws.com", "GetBucketLocation")
    ]


def test_a_service_that_is_out_of_reach_is_tried_once_for_all_its_checks() -> None:
    witness = witnessed()

    class Nowhere:
        emulated = False

        def url(self, service: str, region: str) -> str:
            return "http://127.0.0.1:9"  # the discard port: nobody listens

    calls = RegionCalls(witness.session, Nowhere(), REGIONS[0])
    first = calls.ask("bedrock", "GetAccountDataRetention")
    tried = len(witness.sent)
    second = calls.ask("bedrock", "ListInferenceProfiles")

    assert isinstance(first, Unanswered)
    assert first.seen == "`127.0.0.1:9` cannot be reached (`EndpointConnectionError`)"
    assert second is first
    assert len(witness.sent) == tried == 2


def test_a_call_that_no_permission_is_listed_for_is_not_made() -> None:
    calls = RegionCalls(witnessed().session, AwsEndpoints(AWS), REGIONS[0])

    with pytest.raises(KeyError):
        calls.ask("bedrock", "PutAccountDataRetention", mode="default")
    assert the_session().sent == []


def test_every_call_only_reads() -> None:
    assert all(operation.startswith(("Get", "List", "Describe")) for _, operation in ACTIONS)


def test_an_older_botocore_is_said_to_lack_the_call_for_data_retention() -> None:
    calls = RegionCalls(witnessed().session, AwsEndpoints(AWS), REGIONS[0])
    names = calls._clients["bedrock"].meta.service_model
    known = [name for name in names.operation_names if name != "GetAccountDataRetention"]
    names.__dict__["operation_names"] = known  # a cached property of botocore's
    try:
        reply = calls.ask("bedrock", "GetAccountDataRetention")
    finally:
        del names.__dict__["operation_names"]

    assert isinstance(reply, Unanswered)
    assert reply.seen.startswith("the installed botocore ")
    assert reply.seen.endswith(" does not have `GetAccountDataRetention`")
    assert "install a newer boto3" in reply.fix


def test_credentials_that_a_role_refuses_are_not_taken_for_a_missing_permission() -> None:
    from botocore.exceptions import ClientError

    calls = RegionCalls(witnessed().session, AwsEndpoints(AWS), REGIONS[0])

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRole")

    calls._clients["bedrock"].meta.events.register("before-call.*", refuse)
    reply = calls.ask("bedrock", "ListInferenceProfiles")

    assert isinstance(reply, Unanswered)
    assert reply.seen == "no credentials: `AssumeRole` was refused"


@pytest.mark.parametrize("asked", [False, True])
def test_the_role_of_an_instance_is_asked_for_only_where_the_settings_say_so(asked: bool) -> None:
    session = open_session(Settings(bedrock="aws", aws_instance_role=asked))
    providers = session._session.get_component("credential_provider").providers

    assert (INSTANCE_METADATA_PROVIDER in {one.METHOD for one in providers}) is asked


def test_a_profile_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsInvalid, match="nobody") as raised:
        open_session(Settings(bedrock="aws", aws_profile="nobody"))
    assert "name one of `~/.aws/config`" in str(raised.value)


def test_an_answer_that_is_not_aws_own_is_unknown() -> None:
    calls = RegionCalls(witnessed().session, AwsEndpoints(AWS), REGIONS[0])
    calls._clients["sts"].meta.events.register_last("before-send.*", Canned(200, b"please log in"))

    assert calls.ask("sts", "GetCallerIdentity") == Unanswered(
        "what answers `GetCallerIdentity` is not AWS", "look for a proxy in between"
    )


def test_an_answer_that_says_so_marks_the_region_as_emulated() -> None:
    calls = RegionCalls(witnessed().session, AwsEndpoints(AWS), REGIONS[0])
    canned = Canned(200, b'{"mode": "none"}', {"x-douane-emulated": "1", "content-type": "application/json"})
    calls._clients["bedrock"].meta.events.register_last("before-send.*", canned)

    assert not calls.emulated
    assert isinstance(calls.ask("bedrock", "GetAccountDataRetention"), Answered)
    assert calls.emulated
