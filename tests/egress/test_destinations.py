"""The list itself: what settings and bundle permit, in which words, and what cannot be put on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.egress.aws import AwsSource, credential_hosts
from gateway.egress.destinations import as_rows, destinations
from gateway.policy.bundle import Bundle
from gateway.policy.load import compile_files
from gateway.policy.source.directory import read_directory
from gateway.settings import Settings, SettingsInvalid
from tests.egress.world import bundle_of_the_world
from tests.integration.bundle import POLICIES

STATIC = AwsSource({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, {}, None, instance_role=False)
SECRET = "secret"


def source(
    environ: dict[str, str] | None = None, role: bool = False, **profiles: dict[str, Any]
) -> AwsSource:
    sessions = {"work": {"sso_region": "eu-west-1", "sso_start_url": "https://start.example"}}
    return AwsSource(environ or {}, {"profiles": profiles, "sso_sessions": sessions}, None, role)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = bundle_of_the_world(tmp_path_factory.mktemp("bundle"))
    return compile_files(read_directory(folder)).bundle


def listed(bundle: Bundle, aws: AwsSource = STATIC, **settings: Any) -> dict[str, str | None]:
    """Destination to place."""
    found = destinations(Settings.model_validate(settings), bundle, aws)
    return {row["destination"]: row["place"] for row in as_rows(found)}


def test_with_nothing_configured_there_is_nowhere_to_connect_to(bundle: Bundle) -> None:
    assert listed(bundle) == {}


def test_bedrock_is_one_exact_host_per_region_of_the_bundle(bundle: Bundle) -> None:
    assert listed(bundle, bedrock="aws") == {
        f"bedrock-runtime.{region}.amazonaws.com:443": place
        for region, place in {
            "eu-central-1": "bedrock-frankfurt", "eu-west-1": "bedrock-ireland",
            "eu-north-1": "bedrock-stockholm", "eu-south-1": "bedrock-milan", "eu-west-2": "bedrock-london",
            "us-east-1": "bedrock-virginia", "us-east-2": "bedrock-ohio",
        }.items()
    }  # fmt: skip


def test_each_backend_the_engine_and_the_store_are_listed_by_their_place(bundle: Bundle) -> None:
    found = listed(
        bundle,
        engine_url="http://127.0.0.1:9000", engine_secret=SECRET,
        redis_url="rediss://user:password@redis.internal:6380/0",
        backends={
            "house": {"url": "https://vllm.internal:8443", "secret": SECRET},
            "mistral": {"url": "https://API.mistral.ai/v1", "hosts": ["auth.mistral.ai", "[2001:db8::1]:84"]},
        },
        egress={"archive.internal:9000": "logs"},
        trace_url="https://collector.internal:4318/v1/traces", trace_place="logs",
    )  # fmt: skip

    assert found == {
        "127.0.0.1:9000": "local-engine",
        "redis.internal:6380": "store-redis",
        "vllm.internal:8443": "house",
        "api.mistral.ai:443": "mistral",
        "auth.mistral.ai:443": "mistral",
        "[2001:db8::1]:84": "mistral",
        "archive.internal:9000": "logs",
        "collector.internal:4318": "logs",
    }


def test_the_engine_that_serve_starts_is_listed_before_there_is_a_bundle() -> None:
    found = destinations(Settings.model_validate({"model": "somewhere", "engine_port": 8099}), None)
    assert [(one.name, one.place) for one in found] == [("127.0.0.1:8099", "local-engine")]


def test_a_private_range_comes_with_each_destination_of_its_place(bundle: Bundle) -> None:
    given = {"house": {"url": "https://vllm.internal", "secret": SECRET}}
    rows = as_rows(destinations(Settings.model_validate({"backends": given}), bundle, STATIC))
    assert [row["private_range"] for row in rows] == [["10.77.0.0/16"]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"backends": {"mistral": {"secret": SECRET}}},
            "`backends.mistral` has no `url`; write the provider's",
        ),
        ({"egress": {"x:1": "lgos"}}, "which places.yaml does not have; did you mean `logs`?"),
        ({"egress": {"https://x/": "logs"}}, "`https://x/` in `egress` is not a host"),
        ({"egress": {"*.x": "logs"}}, "is not a host; write `host` or `host:port`"),
        (
            {"backends": {"mistral": {"url": "https://m", "hosts": ["x:y"]}}},
            "`backends.mistral.hosts` is not",
        ),
    ],
)
def test_what_cannot_be_a_destination_is_said(bundle: Bundle, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        listed(bundle, **settings)
    assert said in str(refused.value)


# Where credentials come from.

ROLE = {"role_arn": "arn:aws:iam::1:role/r", "source_profile": "base"}


@pytest.mark.parametrize(
    ("aws", "expected"),
    [
        (STATIC, set()),
        (source(), set()),
        (source(role=True), {("169.254.169.254", 80)}),
        (source(default={"aws_access_key_id": "a", "aws_secret_access_key": "b"}), set()),
        (
            source(default={**ROLE, "region": "eu-central-1"}, base={}),
            {("sts.eu-central-1.amazonaws.com", 443)},
        ),
        (source(default={**ROLE, "region": "eusc-de-east-1"}), {("sts.eusc-de-east-1.amazonaws.eu", 443)}),
        (source({"AWS_REGION": "cn-north-1"}, default=ROLE), {("sts.cn-north-1.amazonaws.com.cn", 443)}),
        (
            source(default={"sso_session": "work"}),
            {("portal.sso.eu-west-1.amazonaws.com", 443), ("oidc.eu-west-1.amazonaws.com", 443)},
        ),
        (
            source({"AWS_WEB_IDENTITY_TOKEN_FILE": "f", "AWS_ROLE_ARN": "r", "AWS_REGION": "eu-west-3"}),
            {("sts.eu-west-3.amazonaws.com", 443)},
        ),
        (source({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}), {("169.254.170.2", 80)}),
        (
            source({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1"}),
            {("169.254.170.23", 80)},
        ),
        (source(another=ROLE), set()),
    ],
)
def test_credentials_add_only_the_hosts_that_their_source_needs(
    aws: AwsSource, expected: set[tuple[str, int]]
) -> None:
    assert {(host, port) for host, port, _ in credential_hosts(aws)} == expected


# What a person reads.


def printed(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli.main", "egress", *arguments]
    return subprocess.run(
        command, cwd=POLICIES.parent, env={**os.environ, **environ}, capture_output=True, text=True
    )


def test_the_command_prints_the_list_with_places_and_reasons(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CONFIG_FILE": str(tmp_path / "none")}
    done = printed("--policies", str(POLICIES), DOUANE_BEDROCK="aws", **keys)
    first, *_ = (line.split(maxsplit=2) for line in done.stdout.splitlines()[1:])

    assert done.returncode == 0, done.stderr
    assert first == [
        "bedrock-runtime.eu-central-1.amazonaws.com:443", "bedrock-frankfurt", "bedrock in eu-central-1",
    ]  # fmt: skip
    rows = json.loads(printed("--format", "json", DOUANE_ENGINE_URL="http://127.0.0.1:1").stdout)
    assert rows[0]["destination"] == "127.0.0.1:1"
    assert {row["why"] for row in rows[1:]} <= {"DNS of this machine, for the names above only"}


def test_the_command_says_what_is_wrong_and_ends_with_3() -> None:
    done = printed(DOUANE_PROT="1")
    assert (done.returncode, done.stdout) == (3, "")
    assert "did you mean `DOUANE_PORT`?" in done.stderr
