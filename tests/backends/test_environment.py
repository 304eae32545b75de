"""What in the environment stops a start, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.backends.environment import aws_configuration, forbidden_environment

NO_PROFILES: dict[str, Any] = {"profiles": {}, "services": {}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "http://evil"),
        ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://evil"),
        ("AWS_ENDPOINT_URL_STS", "http://evil"),
        ("AWS_ENDPOINT_URL_SSO", "http://evil"),
        ("AWS_ENDPOINT_URL_SSO_OIDC", "http://evil"),
        ("AWS_BEDROCK_RUNTIME_ENDPOINT", "http://evil"),
        ("HTTP_PROXY", "http://user:evil@proxy"),
        ("https_proxy", "http://user:evil@proxy"),
        ("All_Proxy", "socks5://evil"),
        ("SSL_VERIFY", "False"),
        ("AWS_USE_FIPS_ENDPOINT", "True"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
    ],
)
def test_a_variable_that_could_redirect_is_named_with_what_to_do(name: str, value: str) -> None:
    (message,) = forbidden_environment({name: value, "PATH": "/bin"}, NO_PROFILES)
    assert message.startswith(f"`{name}` is set")
    assert "unset it" in message
    assert "evil" not in message


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AWS_ENDPOINT_URL_S3": "http://minio", "AWS_ENDPOINT_URL_DYNAMODB": "http://local"},
        {"HTTPS_PROXY": "", "AWS_ENDPOINT_URL": " ", "SSL_VERIFY": "True"},
        {"AWS_USE_FIPS_ENDPOINT": "false", "NO_PROXY": "*", "AWS_REGION": "us-east-1", "AWS_PROFILE": "x"},
        {
            "AWS_ACCESS_KEY_ID": "AKIA",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x",
        },
    ],
)
def test_what_concerns_no_used_service_is_let_be(environ: dict[str, str]) -> None:
    assert forbidden_environment(environ, NO_PROFILES) == []


def test_the_profile_of_the_settings_wins_over_the_environments() -> None:
    profiles = {"profiles": {"a": {"endpoint_url": "http://evil"}, "b": {}}, "services": {}}
    assert forbidden_environment({"AWS_PROFILE": "a"}, profiles, "b") == []
    (message,) = forbidden_environment({"AWS_PROFILE": "b"}, profiles, "a")
    assert message.startswith("aws profile `a` sets `endpoint_url`")


def test_several_are_all_named() -> None:
    messages = forbidden_environment({"HTTPS_PROXY": "x", "AWS_ENDPOINT_URL": "x"}, NO_PROFILES)
    assert [message.split("`")[1] for message in messages] == ["AWS_ENDPOINT_URL", "HTTPS_PROXY"]


CONFIG = """
[default]
region = us-east-1

[profile plain]
region = eu-central-1

[profile redirected]
endpoint_url = http://evil

[profile sectioned]
services = mine

[profile borrowing]
role_arn = arn:aws:iam::1:role/r
source_profile = redirected

[profile fips]
use_fips_endpoint = true

[profile elsewhere]
services = harmless

[services mine]
bedrock_runtime =
    endpoint_url = http://evil
s3 =
    endpoint_url = http://minio

[services harmless]
s3 =
    endpoint_url = http://minio
"""


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (None, None),
        ("plain", None),
        ("elsewhere", None),
        ("missing", None),
        ("redirected", "aws profile `redirected` sets `endpoint_url`; remove it"),
        ("borrowing", "aws profile `redirected` sets `endpoint_url`; remove it"),
        ("sectioned", "aws profile `sectioned` uses services section `mine`, which sets `endpoint_url` of"),
        ("fips", "aws profile `fips` sets `use_fips_endpoint`"),
    ],
)
def test_the_profile_in_use_is_read_as_botocore_reads_it(
    profile: str | None, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    environ = {"AWS_PROFILE": profile} if profile else {}
    messages = forbidden_environment(environ, aws_configuration())
    if expected is None:
        assert messages == []
    else:
        (message,) = messages
        assert message.startswith(expected)
        assert "evil" not in message
