"""Which hosts AWS credentials come from: as few as the configuration in use needs, none for static keys."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import botocore.session

from gateway.backends.environment import aws_configuration, profile_chain

Host = tuple[str, int, str]
INSTANCE_METADATA: Final = "169.254.169.254"
CONTAINER_CREDENTIALS: Final = "169.254.170.2"
NOWHERE: Final = "x"  # a key for a client that is only asked where it would connect


@dataclass(frozen=True, slots=True)
class AwsSource:
    """Where botocore would look: variables, configuration files, the profile in use, and whether the role of
    the machine itself may be asked for."""

    environ: Mapping[str, str] = field(repr=False)
    configuration: Mapping[str, Any] = field(repr=False)
    profile: str | None
    instance_role: bool

    @classmethod
    def of_this_process(cls, profile: str | None, instance_role: bool) -> AwsSource:
        return cls(dict(os.environ), aws_configuration(), profile, instance_role)

    @property
    def in_use(self) -> str:
        named = self.environ.get("AWS_PROFILE") or self.environ.get("AWS_DEFAULT_PROFILE")
        return self.profile or named or "default"


def credential_hosts(source: AwsSource) -> list[Host]:
    """Host, port and reason of each service that credentials come from, in botocore's own names for them."""
    return list(dict.fromkeys(hosts_of(source)))


def hosts_of(source: AwsSource) -> Iterator[Host]:
    environ = source.environ
    static = environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY")
    if static and source.profile is None:
        return  # botocore looks no further
    profiles: Mapping[str, Any] = source.configuration.get("profiles", {})
    region = region_of(source, profiles)
    roles = environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environ.get("AWS_ROLE_ARN")
    if roles:
        yield service("sts", region, "role of a web identity")
    for name in profile_chain(source.in_use, profiles):
        yield from hosts_of_profile(name, profiles[name], source, region)
    if url := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        parts = urlsplit(url)
        yield (
            parts.hostname or "",
            parts.port or (443 if parts.scheme == "https" else 80),
            "role of the container",
        )
    elif environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        yield CONTAINER_CREDENTIALS, 80, "role of the container"
    if source.instance_role:
        yield INSTANCE_METADATA, 80, "role of the instance, `aws_instance_role`"


def hosts_of_profile(
    name: str, profile: Mapping[str, Any], source: AwsSource, region: str | None
) -> Iterator[Host]:
    if profile.get("role_arn"):
        yield service("sts", region, f"role of profile `{name}`")
    if session := profile.get("sso_session"):
        section = source.configuration.get("sso_sessions", {}).get(session, {})
        sso_region = section.get("sso_region")
    else:
        sso_region = profile.get("sso_region") if profile.get("sso_start_url") else None
    if sso_region:
        yield service("sso", sso_region, f"single sign-on of profile `{name}`")
        yield service("sso-oidc", sso_region, f"single sign-on of profile `{name}`")
    if profile.get("login_session"):
        yield service("signin", region, f"log-in of profile `{name}`")


def region_of(source: AwsSource, profiles: Mapping[str, Any]) -> str | None:
    """The region that botocore would ask for credentials in; never the one of inference."""
    environ = source.environ
    named = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    return named or profiles.get(source.in_use, {}).get("region")


def service(name: str, region: str | None, why: str) -> Host:
    return (*host_of_service(name, region), why)


@functools.cache  # it takes a tenth of a second, and a bundle may come into force while requests run
def host_of_service(name: str, region: str | None) -> tuple[str, int]:
    """The host that botocore itself derives for a service, which depends on region and partition."""
    session = botocore.session.Session()
    client = session.create_client(
        name, region_name=region, aws_access_key_id=NOWHERE, aws_secret_access_key=NOWHERE
    )
    parts = urlsplit(client.meta.endpoint_url)
    return parts.hostname or "", parts.port or 443
